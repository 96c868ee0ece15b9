"""s3backfs: a FUSE file system for backups on S3."""

__version__ = "0.1.0"
