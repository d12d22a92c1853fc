"""How the runner starts kernels: reachable by this user alone, and never mistaken for one another.

Kernels of stages that run side by side would otherwise pick their addresses independently: TCP ports can be taken by
another kernel between choosing and binding, and jupyter's default IPC name is the same for every kernel in a folder.
"""

import shutil
import tempfile

from jupyter_client import AsyncKernelManager


class PrivateKernelManager(AsyncKernelManager):
    """Kernels that talk over sockets in a private folder of their own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.folder = tempfile.mkdtemp(prefix="emosafe-")
        self.transport, self.ip = "ipc", f"{self.folder}/kernel"

    def cleanup_connection_file(self) -> None:
        super().cleanup_connection_file()
        shutil.rmtree(self.folder, ignore_errors=True)
