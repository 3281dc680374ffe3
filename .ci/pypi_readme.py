"""README.md as PyPI shows it: links and pictures lead to the files of this version, by their whole addresses."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
PICTURES = (".png", ".svg")


class Readme(MetadataHookInterface):
    """Give the build a `readme`. The release with the version 1.0.0 has the tag v1.0.0."""

    def update(self, metadata):
        root = Path(self.root)
        address, tag = metadata["urls"]["Repository"], f"v{metadata['version']}"

        def absolute(link):
            path = link[1].rstrip("/")
            if path.endswith(PICTURES):
                return f"]({address.replace('github.com', 'raw.githubusercontent.com')}/{tag}/{path}"
            return f"]({address}/{'tree' if (root / path).is_dir() else 'blob'}/{tag}/{path}"

        text = LINK.sub(absolute, (root / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
