"""Speed, requests and memory beside the peers; not collected by the tests."""
