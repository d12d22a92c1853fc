"""Which models a workflow runs, as lines for `$GITHUB_OUTPUT`; reads params/models/ without the package.

`small`: what any runner can do, because the weights come with the package or by pip. `asked`: the names given by hand in
`ASKED`, each of which must be a file in params/models/.
"""

import json
import os
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "params" / "models"


def main() -> int:
    """Print both lists; 1 and one line where a name is unknown."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))}
    small = [
        name for name, text in texts.items() if re.search(r"^weights: (assets|package|gguf)\b", text, re.MULTILINE)
    ]
    asked = os.environ.get("ASKED", "").split()
    if unknown := [name for name in asked if name not in texts]:
        print(f"params/models: no file for {unknown[0][:60]!r}; name some of: {', '.join(texts)}", file=sys.stderr)
        return 1
    print(f"small={json.dumps(small)}")
    print(f"asked={json.dumps(asked)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
