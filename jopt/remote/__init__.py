"""Directories of jobs in object stores: `gs://bucket/runs/a`, `s3://...`, any file system of fsspec.

A job works in a local directory; a mirror uploads what the job has committed, each commit complete or not at all.
`jopt.remote.opening.opened` opens one to work in, `jopt.remote.reading.local_copy` to read. See docs/remote.md.
"""

# No more: the apps import it for their flags, and `jopt.train` while the other modules here need `jopt.train`.
from jopt.remote.urls import accepts_url as accepts_url
from jopt.remote.urls import is_url as is_url
