"""How the runner starts kernels: reachable by this user alone, never mistaken for one another, and as bare as everybody's.

Kernels of stages that run side by side would otherwise pick their addresses independently: TCP ports can be taken by
another kernel between choosing and binding, and jupyter's default IPC name is the same for every kernel in a folder.
A kernel would also run its user's startup files, which can change what the library does without a trace in a manifest,
or a kernel that the user has installed under the same name.
"""

import os
import shutil
import tempfile

import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec

LONGEST_SOCKET_PATH = 103  # bytes, on macOS; Linux takes four more
# What would run before the first cell, or leave out its assertions. Python takes an empty text for none.
UNSET = {"PYTHONSTARTUP": "", "PYTHONOPTIMIZE": ""}


class PrivateKernelManager(AsyncKernelManager):
    """Kernels of this very environment that talk over sockets in a private folder, which is their IPython folder too.

    Where no folder for temporary files has a path short enough for sockets, they talk over TCP.
    """

    def __init__(self, **options):
        super().__init__(**options)
        place = socket_place()
        self.folder = tempfile.mkdtemp(prefix="emosafe-", dir=place)
        if place:
            self.transport, self.ip = "ipc", f"{self.folder}/kernel"
        self._kernel_spec = KernelSpec(**get_kernel_dict(), env=UNSET | {"IPYTHONDIR": self.folder})

    def cleanup_connection_file(self) -> None:
        super().cleanup_connection_file()
        shutil.rmtree(self.folder, ignore_errors=True)


def socket_place() -> str | None:
    """A folder for temporary files that leaves room for a socket's name in a private folder below; None where there is
    none, or the system has no such sockets.
    """
    longest = LONGEST_SOCKET_PATH - len("/emosafe-12345678/kernel-1")
    fit = [place for place in (tempfile.gettempdir(), "/tmp") if len(os.fsencode(place)) <= longest]
    return next((place for place in fit if zmq.has("ipc") and os.access(place, os.W_OK | os.X_OK)), None)
