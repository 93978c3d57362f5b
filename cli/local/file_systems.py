"""Finds out on which kind of file system a path is."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""Network file systems, by Linux's names. statfs(2) is not used: it gives all FUSE file systems the same number."""


def file_system_of(path: Path) -> str:
    """Return the type of a path's file system, or "unknown" if Linux does not list it. The path need not exist."""
    types = {}
    for line in MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")  # proc_pid_mountinfo(5)
        mount_point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        types[Path(mount_point)] = after.split(" ")[0]  # if several are mounted on one folder, the last is used
    place = path.resolve()
    return next((types[folder] for folder in (place, *place.parents) if folder in types), "unknown")
