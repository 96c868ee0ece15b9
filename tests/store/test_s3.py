"""What only the S3 store does: settings, errors of real answers, broken connections."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from s3backfs.errors import (
    BucketMissingError,
    ConfigurationError,
    DeniedError,
    ObjectMissingError,
    PreconditionFailedError,
    QuotaError,
    RefusedError,
    S3backfsError,
    StoreError,
    UnavailableError,
    UploadMissingError,
)
from s3backfs.store.base import IfAbsent, IfMatch, Store
from s3backfs.store.probing import UnsupportedError
from s3backfs.store.s3 import S3Settings, S3Store
from s3backfs.store.s3_client import BufferReader, make_client, request_body
from s3backfs.store.s3_requests import cut_answer, range_header
from tests.servers import Server, checking_moto_server, free_port, start_checking, tls_moto_server
from tests.store.canned import answer, canned_server, error_answer
from tests.store.conftest import use

pytestmark = pytest.mark.anyio

SECRET = "thisisthesecretkeywhichnobodymaysee00001"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONGWRONGWRONG1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def store_at(endpoint: str, bucket: str = "bucket", prefix: str = "") -> S3Store:
    return S3Store(S3Settings(bucket, prefix, endpoint, connect_timeout_s=2.0, read_timeout_s=2.0))


async def listing(store: Store) -> None:
    async for _ in store.list(""):
        pass


def requests_of(store: Store) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "get": lambda: store.get("one"),
        "ranged get": lambda: store.get("one", offset=1, length=2),
        "put": lambda: store.put("one", b"x"),
        "large put": lambda: store.put("one", bytes(1 << 20)),
        "upload": lambda: store.begin_upload("one"),
        "list": lambda: listing(store),
        "delete": lambda: store.delete(["one", "two"]),
    }


async def errors_of(store: Store) -> dict[str, S3backfsError]:
    found: dict[str, S3backfsError] = {}
    for name, ask in requests_of(store).items():
        with pytest.raises(S3backfsError) as caught:
            await ask()
        found[name] = caught.value
    for error in found.values():
        assert SECRET not in f"{error} {error!r}"
        assert "\n" not in str(error)
    return found


# -- real servers ----------------------------------------------------------------------------


async def test_wrong_credentials_are_refused(rclone: Server) -> None:
    """A server that checks signatures refuses each request; the text names a remedy, no secret."""
    bucket = rclone.make_bucket(f"b{uuid.uuid4().hex}")
    for name, error in (await errors_of(store_at(rclone.endpoint, bucket))).items():
        assert type(error) is RefusedError, name
        assert "check" in str(error)


async def test_unknown_access_keys_are_refused() -> None:
    """moto with credentials checked knows no such key, and says so by InvalidAccessKeyId."""
    with checking_moto_server() as server:
        server.make_bucket("bucket")
        start_checking(server)
        for name, error in (await errors_of(store_at(server.endpoint))).items():
            assert type(error) is RefusedError, name
            assert "check the access key" in str(error)


@pytest.mark.parametrize("kind", ["rclone", "moto"])
async def test_a_missing_bucket_is_told(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of a bucket that is not there, the answer names the bucket."""
    server: Server = request.getfixturevalue(kind)
    use(server, monkeypatch)
    store = store_at(server.endpoint, "no-such-bucket")
    errors = await errors_of(store)
    told = [name for name, error in errors.items() if type(error) is BucketMissingError]
    assert {"get", "put", "list", "upload"} <= set(told)
    assert all("no-such-bucket" in str(errors[name]) for name in told)


async def test_missing_credentials_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any credentials nothing is sent, and the text says how to give some."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RefusedError, match="AWS_ACCESS_KEY_ID"):
        await store_at("http://127.0.0.1:9").get("one")


async def test_an_endpoint_that_is_down_can_be_retried() -> None:
    """Nobody listens: each request raises UnavailableError that names the endpoint."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    for error in (await errors_of(store_at(endpoint))).values():
        assert type(error) is UnavailableError
        assert f"cannot connect to {endpoint}" in str(error)


async def test_an_endpoint_without_address_can_be_retried() -> None:
    """A name that does not resolve is as good as a server that is down."""
    with pytest.raises(UnavailableError):
        await store_at("http://no-such-host.invalid").get("one")


async def test_a_silent_server_times_out(rclone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes connections and answers nothing costs the read timeout, no more."""
    use(rclone, monkeypatch)
    settings = S3Settings("b", endpoint_url=rclone.endpoint, read_timeout_s=0.2)
    store = S3Store(settings)
    with rclone.paused(), pytest.raises(UnavailableError, match="in time"), trio.fail_after(10):
        await store.put("one", b"x")


async def test_a_cancelled_read_returns_at_once(
    rclone: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling a get does not wait for the server's answer."""
    use(rclone, monkeypatch)
    store = S3Store(S3Settings("b", endpoint_url=rclone.endpoint, read_timeout_s=1.5))
    with rclone.paused():
        started_s = trio.current_time()
        with trio.move_on_after(0.1):
            await store.get("one")
        assert trio.current_time() - started_s < 1.0
        await store.aclose()


async def test_tls_needs_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign certificate is refused with a remedy; its authority given, all works.

    That includes checksums in trailers, which boto3 sends over TLS only.
    """
    with tls_moto_server(tmp_path) as (server, certificate):
        use(server, monkeypatch)
        with pytest.raises(RefusedError, match="ca-bundle"):
            await store_at(server.endpoint).put("one", b"x")
        settings = S3Settings("bucket", ca_bundle=str(certificate), checksums="always")
        store = S3Store(settings)
        await trio.to_thread.run_sync(lambda: make_client(settings).create_bucket(Bucket="bucket"))
        data = os.urandom(3_000_000)
        await store.put("one", bytearray(data))
        assert (await store.get("one")).data == data
        await store.aclose()


async def test_prefixes_do_not_see_each_other(
    moto: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two repositories in one bucket have keys of their own, also if one name begins another."""
    use(moto, monkeypatch)
    bucket = moto.make_bucket(f"b{uuid.uuid4().hex}")
    one, other = store_at(moto.endpoint, bucket, "x"), store_at(moto.endpoint, bucket, "xy")
    await one.put("key", b"1")
    await other.put("key", b"2")
    assert (await one.get("key")).data == b"1"
    assert [found.key async for page in one.list("") for found in page] == ["key"]
    assert one.url == f"s3://{bucket}/x"


# -- answers word for word -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("503 Slow Down", "SlowDown", UnavailableError),
        ("500 Oops", "InternalError", UnavailableError),
        ("502 Bad Gateway", "Whatever", UnavailableError),
        ("429 Too Many", "TooManyRequests", UnavailableError),
        ("400 Bad Request", "RequestTimeout", UnavailableError),
        ("409 Conflict", "ConditionalRequestConflict", UnavailableError),
        ("412 Precondition Failed", "PreconditionFailed", PreconditionFailedError),
        ("403 Forbidden", "QuotaExceeded", QuotaError),
        ("507 Full", "XMinioStorageFull", QuotaError),
        ("403 Forbidden", "AccessDenied", DeniedError),
        ("403 Forbidden", "RequestTimeTooSkewed", RefusedError),
        ("403 Forbidden", "UserSuspended", RefusedError),
        ("400 Bad Request", "ExpiredToken", RefusedError),
        ("403 Forbidden", "SignatureDoesNotMatch", RefusedError),
        ("403 Forbidden", "InvalidObjectState", StoreError),
        ("404 Not Found", "NoSuchKey", ObjectMissingError),
        ("404 Not Found", "NoSuchBucket", BucketMissingError),
        ("404 Not Found", "NoSuchUpload", UploadMissingError),
        ("501 Not Implemented", "NotImplemented", UnsupportedError),
        ("400 Bad Request", "EntityTooLarge", StoreError),
    ],
)
async def test_every_error_code_has_its_meaning(
    status: str, code: str, kind: type[StoreError]
) -> None:
    """The server's code, or else its status, decides the error; nothing is sent twice."""
    with canned_server(error_answer(status, code, f"see\n{'x' * 500}")) as canned:
        with pytest.raises(StoreError) as caught:
            await store_at(canned.endpoint).put("one", b"x")
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        assert len(canned.requests) == 1


async def test_a_clock_that_is_behind_is_told() -> None:
    """A wrong clock is told as one, also by servers that call it a denied access."""
    text = "The difference between the request time and the server's time exceeds the maximum."
    for code in ("AccessDenied", "RequestTimeTooSkewed"):
        with canned_server(error_answer("403 Forbidden", code, text)) as canned:
            with pytest.raises(RefusedError, match="this machine's clock") as caught:
                await store_at(canned.endpoint).get("one")
            assert "policies" not in str(caught.value)


@pytest.mark.parametrize("message", ["<Message></Message>", ""])
async def test_no_message_is_none(message: str) -> None:
    """Where a server says nothing but a code, the text shows nothing else."""
    body = f"<Error><Code>SignatureDoesNotMatch</Code>{message}</Error>".encode()
    told = answer("403 Forbidden", body, "Content-Type: application/xml")
    with canned_server(told) as canned, pytest.raises(RefusedError) as caught:
        await store_at(canned.endpoint).get("one")
    assert "refused: SignatureDoesNotMatch; check" in str(caught.value)


async def test_a_denied_head_is_refused() -> None:
    """The answer to a HEAD has no code: its status counts."""
    denied = (answer("403 Forbidden"), error_answer("403 Forbidden", "AccessDenied"))
    with canned_server(*denied) as canned, pytest.raises(RefusedError):
        await store_at(canned.endpoint).head("one")


def listed(*keys: str) -> bytes:
    """Write what a listing answers."""
    each = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    return answer("200 OK", f"<ListBucketResult>{each}</ListBucketResult>".encode())


@pytest.mark.parametrize("verb", ["head", "get"])
async def test_what_is_denied_and_not_listed_is_missing(verb: str) -> None:
    """Who may list below the prefix only is denied what is not there; the listing tells."""
    denied = answer("403 Forbidden")
    if verb == "get":
        denied = error_answer("403 Forbidden", "AccessDenied")
    with canned_server(denied, listed("p/onetwo"), denied, listed("p/one")) as canned:
        store = store_at(canned.endpoint, prefix="p")
        for expected in (ObjectMissingError, DeniedError):
            with pytest.raises(expected):
                await getattr(store, verb)("one")
        assert "prefix=p%2Fone" in canned.requests[1]


async def test_who_may_not_list_is_asked_once() -> None:
    """Where the listing is denied too, reads are denied, and no more listings are tried."""
    denied = error_answer("403 Forbidden", "AccessDenied")
    with canned_server(denied, denied, denied) as canned:
        store = store_at(canned.endpoint)
        for _ in range(2):
            with pytest.raises(DeniedError):
                await store.get("one")
        assert len(canned.requests) == 3


async def test_many_are_deleted_one_by_one_where_a_request_for_many_is_denied() -> None:
    """Some servers deny the request for many to whom a policy lets delete each of them."""
    denied, done = error_answer("403 Forbidden", "AccessDenied"), answer("204 No Content")
    with canned_server(denied, done, done, done, done, denied) as canned:
        store = store_at(canned.endpoint)
        for _ in range(2):
            await store.delete(["one", "two"])
        with pytest.raises(DeniedError):
            await store.delete(["one"])
    verbs = [line.partition(" ")[0] for line in canned.requests]
    assert verbs == ["POST"] + ["DELETE"] * 5


async def test_a_truncated_body_can_be_retried() -> None:
    """A connection that ends before Content-Length bytes is no object."""
    truncated = answer("200 OK", b"abc", 'ETag: "e"', length=10)
    with canned_server(truncated) as canned, pytest.raises(UnavailableError, match="broke off"):
        await store_at(canned.endpoint).get("one")


async def test_a_short_range_can_be_retried() -> None:
    """Content-Range tells that bytes are missing, even if the length is that of the body."""
    short = answer("206 Partial Content", b"abc", 'ETag: "e"', "Content-Range: bytes 0-9/20")
    with canned_server(short) as canned, pytest.raises(UnavailableError, match="broke off"):
        await store_at(canned.endpoint).get("one", offset=0, length=10)


async def test_a_server_that_ignores_ranges_still_serves() -> None:
    """A whole object in place of a range is cut here."""
    with canned_server(answer("200 OK", b"0123456789", 'ETag: "e"')) as canned:
        fetched = await store_at(canned.endpoint).get("one", offset=3, length=2)
    assert (fetched.data, fetched.total_bytes, fetched.etag) == (b"34", 10, "e")
    assert fetched.server_time_ns == 0


async def test_no_answer_at_all_can_be_retried() -> None:
    """A connection that closes without a word is a matter of the way."""
    with canned_server(b"") as canned, pytest.raises(UnavailableError, match="closed"):
        await store_at(canned.endpoint).get("one")


async def test_an_answer_that_is_no_xml_can_be_retried() -> None:
    """A page of some proxy in place of a listing is not taken for an empty listing."""
    page = answer("200 OK", b"<html><p>log in</html>")
    with canned_server(page) as canned, pytest.raises(UnavailableError):
        await listing(store_at(canned.endpoint))


async def test_the_date_header_is_the_servers_time() -> None:
    """The clock of a put is the server's and not this machine's."""
    date = "Date: Sat, 01 Jan 2000 00:00:01 GMT"
    with canned_server(answer("200 OK", b"", 'ETag: "e"', date)) as canned:
        stored = await store_at(canned.endpoint).put("one", b"x")
    assert (stored.etag, stored.server_time_ns) == ("e", 946684801 * 10**9)


async def test_errors_of_single_keys_of_a_delete_are_raised() -> None:
    """A DeleteObjects that is answered 200 may still have failed for one key."""
    body = (
        b"<DeleteResult><Error><Key>p/two</Key><Code>AccessDenied</Code>"
        b"<Message>no</Message></Error></DeleteResult>"
    )
    with canned_server(answer("200 OK", body)) as canned:
        with pytest.raises(RefusedError) as caught:
            await store_at(canned.endpoint, prefix="p").delete(["one", "two"])
        assert caught.value.key == "two"
        assert "content-md5: " in canned.heads[0].lower()


UPLOAD = (
    answer("200 OK", b"<R><UploadId>u1</UploadId></R>"),
    answer("200 OK", b"", 'ETag: "part"'),
)


async def complete_with(*answers: bytes) -> str:
    with canned_server(*UPLOAD, *answers) as canned:
        upload = await store_at(canned.endpoint).begin_upload("one")
        await upload.put_part(1, b"abc")
        return (await upload.complete()).etag


async def test_a_complete_whose_answer_was_lost_is_looked_up() -> None:
    """The object is there with the right length: the upload is complete."""
    assert await complete_with(b"", answer("200 OK", b"", 'ETag: "whole"', length=3)) == "whole"


async def test_a_complete_that_did_nothing_can_be_retried() -> None:
    """No object, or one of another length, means that the upload is still to be completed."""
    for head in (answer("404 Not Found"), answer("200 OK", b"", 'ETag: "old"', length=4)):
        with pytest.raises(UnavailableError):
            await complete_with(b"", head)


async def test_an_error_inside_a_good_answer_is_an_error() -> None:
    """S3 may begin CompleteMultipartUpload with 200 and then fail."""
    late = error_answer("200 OK", "InternalError")
    with pytest.raises(UnavailableError):
        await complete_with(late, answer("404 Not Found"))


async def test_an_upload_that_the_server_forgot() -> None:
    """NoSuchUpload is success if the object is there, else UploadMissingError."""
    unknown = error_answer("404 Not Found", "NoSuchUpload")
    assert await complete_with(unknown, answer("200 OK", b"", 'ETag: "w"', length=3)) == "w"
    with pytest.raises(UploadMissingError):
        await complete_with(unknown, answer("404 Not Found"))


async def test_if_match_on_nothing_is_a_failed_condition() -> None:
    """Amazon answers 404 to an If-Match where there is no object."""
    with canned_server(error_answer("404 Not Found", "NoSuchKey")) as canned:
        with pytest.raises(PreconditionFailedError):
            await store_at(canned.endpoint).put("one", b"x", condition=IfMatch("e"))
        assert 'if-match: "e"' in canned.heads[0].lower()


OK = answer("200 OK", b"", 'ETag: "e"')
FAILED = error_answer("412 Precondition Failed", "PreconditionFailed")
UNKNOWN = error_answer("501 Not Implemented", "NotImplemented")
DELETED = answer("204 No Content")


async def test_a_server_that_wants_bare_etags_is_found_out() -> None:
    """The probe tries the etag with and without its quotes and remembers what works."""
    with_quotes, without = (OK, FAILED, FAILED, FAILED, DELETED), (OK, FAILED, FAILED, OK, DELETED)
    with canned_server(*with_quotes, *without, OK) as canned:
        store = store_at(canned.endpoint)
        await store.probe("probe")
        assert store.has_conditional_put is True
        await store.put("one", b"x", condition=IfMatch("e"))
        assert "if-match: e\r\n" in canned.heads[-1].lower()


async def test_a_server_without_conditions_gets_none() -> None:
    """Where a condition is answered 501 the probe says so, and later puts are sent without."""
    with canned_server(OK, UNKNOWN, DELETED, OK) as canned:
        store = store_at(canned.endpoint)
        await store.probe("probe")
        assert store.has_conditional_put is False
        await store.put("one", b"x", condition=IfAbsent())
        assert "if-none-match" not in canned.heads[-1].lower()


async def test_what_a_server_does_not_copy_goes_through_this_machine() -> None:
    """Where a copy is answered 501, as Ceph does to what it has encrypted, bytes are moved."""
    with canned_server(UNKNOWN, answer("200 OK", b"data", 'ETag: "e"'), OK) as canned:
        assert (await store_at(canned.endpoint).copy("one", "two")).etag == "e"
        assert [request.split()[:2] for request in canned.heads][1:] == [
            ["GET", "/bucket/one"],
            ["PUT", "/bucket/two"],
        ]


# -- settings --------------------------------------------------------------------------------


def test_amazon_is_spoken_to_as_amazon_likes_it() -> None:
    """Virtual-hosted style and checksums towards Amazon; path style and none elsewhere."""
    amazon = make_client(S3Settings("b", region="eu-west-1")).meta.config
    other = make_client(S3Settings("b", endpoint_url="http://localhost:1")).meta.config
    assert amazon.s3["addressing_style"] == "virtual"
    assert amazon.request_checksum_calculation == "when_supported"
    assert other.s3["addressing_style"] == "path"
    assert other.request_checksum_calculation == "when_required"
    assert other.response_checksum_validation == "when_required"


def test_the_endpoint_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ENDPOINT_URL leads to another server, so path style is chosen; the option wins."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    assert make_client(S3Settings("b")).meta.config.s3["addressing_style"] == "path"
    asked = make_client(S3Settings("b", path_style=False, checksums="always")).meta.config
    assert asked.s3["addressing_style"] == "virtual"
    assert asked.request_checksum_calculation == "when_supported"


@pytest.mark.parametrize(
    "settings",
    [
        S3Settings("b", profile="no-such-profile"),
        S3Settings("b", endpoint_url="localhost:9000"),
        S3Settings("b", endpoint_url=f"http://user:{SECRET}@localhost"),
        S3Settings("b", region="not a region!"),
        S3Settings("b", ca_bundle="/no/such/file"),
    ],
)
def test_impossible_settings_are_told_at_once(settings: S3Settings) -> None:
    """Nothing is sent; the text does not repeat a password."""
    with pytest.raises(ConfigurationError) as caught:
        S3Store(settings)
    assert SECRET not in str(caught.value)


async def test_the_libraries_log_no_secret(
    rclone: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even at debug level nothing of a request's signature reaches the log."""
    use(rclone, monkeypatch)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "tokentokentoken")
    caplog.set_level(logging.DEBUG)
    store = store_at(rclone.endpoint, rclone.make_bucket(f"b{uuid.uuid4().hex}"))
    await store.put("one", b"x")
    assert "tokentokentoken" not in caplog.text
    assert rclone.secret_key not in caplog.text
    assert "Signature" not in caplog.text


# -- pure ------------------------------------------------------------------------------------


def test_large_bodies_are_not_copied() -> None:
    """The reader gives views of the caller's buffer; seeking makes it begin again."""
    data = bytearray(os.urandom(1 << 20))
    body = request_body(memoryview(data))
    assert isinstance(body, BufferReader)
    block = body.read(16384)
    assert isinstance(block, memoryview)
    assert block.obj is data
    assert b"".join([block, *iter(lambda: bytes(body.read(16384)), b"")]) == data
    assert (body.seek(0), body.read(), body.read(1)) == (0, data, b"")
    assert (body.seek(-5, 2), body.tell(), bytes(body.read(-1))) == (len(data) - 5,) * 2 + (
        bytes(data[-5:]),
    )


def test_ranges_are_written_as_http_wants_them() -> None:
    """No header where all is wanted; last bytes are inclusive; tails are negative."""
    wanted = [(0, None), (5, None), (0, 1), (5, 10), (-7, None), (-7, 3)]
    assert [range_header(*each) for each in wanted] == [
        None,
        "bytes=5-",
        "bytes=0-0",
        "bytes=5-14",
        "bytes=-7",
        "bytes=-7",
    ]


def test_an_answer_of_another_range_is_not_taken() -> None:
    """A range that begins behind the wanted byte lacks bytes; one before it is cut."""
    with pytest.raises(UnavailableError):
        cut_answer(b"345", "bytes 3-5/10", 2, 3)
    assert cut_answer(b"12345", "bytes 1-5/10", 2, 3) == (b"234", 10)
    with pytest.raises(StoreError):
        cut_answer(b"345", "bytes 3-5/*", 3, 3)
