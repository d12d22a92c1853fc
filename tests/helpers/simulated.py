"""Machines that this one is not: packages that are broken on import, and processors that see less than they have."""

from pathlib import Path

# A processor with avx2 and nothing beyond it, for PyTorch's own kernels and for oneDNN's.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
IMPORTS = {
    "absent": "raise ModuleNotFoundError(\"No module named 'bitsandbytes'\", name='bitsandbytes')",
    "ImportError": "raise ImportError('built for another Python')",
    "OSError": "raise OSError('libcudart.so.99: cannot open shared object file')",
    "RuntimeError": "raise RuntimeError('no CUDA here')",
    "prints": "import sys; print('loading'); print('a warning', file=sys.stderr); raise ImportError('no libcudart')",
    "dies": "import os; os.abort()",
}


def broken_package(folder: Path, kind: str, name: str = "bitsandbytes") -> Path:
    """A folder for `PYTHONPATH` in which a package fails on import in one of the ways of `IMPORTS`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(IMPORTS[kind] + "\n")
    return folder
