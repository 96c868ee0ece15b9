# Bash completion; copy to /usr/share/bash-completion/completions/s3backfs.
eval "$(_S3BACKFS_COMPLETE=bash_source s3backfs)"
