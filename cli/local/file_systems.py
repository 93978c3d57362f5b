"""The kind of file system that a path lies on."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""Types, by the names that Linux gives them. The numbers of statfs(2) would not do: all of FUSE has the same one."""


def file_system_of(path: Path) -> str:
    """Return the type of the file system of a path, which need not exist; "unknown" if Linux does not list it."""
    types = {}
    for line in MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")  # proc_pid_mountinfo(5)
        mount_point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        types[Path(mount_point)] = after.split(" ")[0]  # the last one mounted on a folder covers the others
    place = path.resolve()
    return next((types[folder] for folder in (place, *place.parents) if folder in types), "unknown")
