"""Real S3 servers for tests, as context managers; all on loopback, each with data of its own.

They die with the process that started them, also if it is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import boto3.session
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ACCESS_KEY = "AKIATESTTESTTEST0001"
SECRET_KEY = "sksksksksksksksksksksksksksksksksksk0001"

_START_S = 30.0
_STOP_S = 10.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Server:
    """A running server; `environment` is what boto3 and the program need to reach it."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Nothing of the person who runs the tests may be found.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """Make a boto3 client of one's own, to look behind the program's back."""
        session = boto3.session.Session(
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )
        config = Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return session.client("s3", endpoint_url=self.endpoint, config=config)

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process: connections are taken and never answered."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program_of_venv(name: str) -> str:
    """Find a program that is installed beside this Python, or on the path."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; run `make setup`")
    return found


@contextmanager
def tls_rclone_server(directory: Path) -> Iterator[tuple[Server, Path]]:
    """Serve folders behind TLS; the second value is the certificate that clients must trust."""
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key = make_certificate(directory.parent)
    context = ssl.create_default_context(cafile=certificate)
    options = ("--cert", str(certificate), "--key", str(key))
    with rclone_server(directory, *options, tls=context) as server:
        yield server, certificate


@contextmanager
def rclone_server(
    directory: Path, *options: str, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve the folders of `directory` as buckets; the log is beside it."""
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    command = [
        *(program_of_venv("rclone"), "serve", "s3", "--config", os.devnull),
        *("--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"),
        # Without it a part that is sent again is answered 501.
        "--disable-multipart-streaming",
        *options,
        str(directory),
    ]
    log = directory.with_name(directory.name + ".log")
    with _running(command, port, log, tls=tls) as server:
        yield server


@contextmanager
def moto_server(log: Path = Path(os.devnull)) -> Iterator[Server]:
    """Run moto, which keeps everything in memory and takes any credentials."""
    port = free_port()
    command = [program_of_venv("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, log) as server:
        yield server


@contextmanager
def tls_moto_server(directory: Path) -> Iterator[tuple[Server, Path]]:
    """Run moto behind TLS; the second value is the certificate that clients must trust."""
    port = free_port()
    certificate, key = make_certificate(directory)
    command = [program_of_venv("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    command += ["-c", str(certificate), "-k", str(key)]
    context = ssl.create_default_context(cafile=certificate)
    with _running(command, port, directory / "log", tls=context) as server:
        yield server, certificate


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_file, key_file


@contextmanager
def localstack_server(python: str, directory: Path) -> Iterator[Server]:
    """Run LocalStack's S3 in an environment of its own, whose Python is given."""
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    environment = {
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "SERVICES": "s3",
        "STRICT_SERVICE_LOADING": "1",
        "EAGER_SERVICE_LOADING": "1",
        "DNS_ADDRESS": "0",
        "GATEWAY_SERVER": "hypercorn",
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "FILESYSTEM_ROOT": str(directory),
    }
    command = [python, "-m", "localstack.runtime.main"]
    log = directory.with_name(directory.name + ".log")
    with _running(command, port, log, environment=environment) as server:
        yield server


@contextmanager
def checking_moto_server(log: Path = Path(os.devnull)) -> Iterator[Server]:
    """Run moto with credentials checked; it starts without any user, so all are refused.

    Buckets must be made first: call `start_checking` after that.
    """
    port = free_port()
    command = [program_of_venv("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    environment = {"INITIAL_NO_AUTH_ACTION_COUNT": "1000000000"}
    with _running(command, port, log, environment=environment) as server:
        yield server


def start_checking(server: Server) -> None:
    """Make a server of `checking_moto_server` check credentials from now on."""
    request = urllib.request.Request(
        f"{server.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


@contextmanager
def _running(
    command: Sequence[str],
    port: int,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    with log.open("ab") as log_file:
        process = subprocess.Popen(
            # setpriv sets the signal that the kernel sends when the parent dies, then execs.
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    scheme = "https" if tls else "http"
    server = Server(f"{scheme}://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, process)
    try:
        _wait_until_answers(server, log, tls)
        yield server
    finally:
        stop(process)


def _wait_until_answers(server: Server, log: Path, tls: ssl.SSLContext | None) -> None:
    waited_s = 0.0
    while not _answers(server.endpoint, tls):
        try:
            process_code = server.process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            waited_s += _POLL_S
        else:
            raise RuntimeError(f"the server ended with {process_code}, see {log}")
        if waited_s > _START_S:
            raise RuntimeError(f"the server does not answer, see {log}")


def _answers(endpoint: str, tls: ssl.SSLContext | None) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=1, context=tls):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, by force if it takes too long."""
    if process.poll() is not None:
        return
    # A paused process gets no other signal.
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
