"""Log stores past one disk: LanceDB on S3, Google Cloud Storage, Azure, or a disk (`pip install 'lagkit[lance]'`)."""

from lagkit.logs.lance.cache import DiskCache
from lagkit.logs.lance.store import LanceStore

__all__ = ["DiskCache", "LanceStore"]
