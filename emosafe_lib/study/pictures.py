"""Small pictures: a chart needs few colours, and a committed page should weigh little.

A figure stands in the notebook, in its page and beside its CSV. In 128 colours it looks the same and takes a third of
the bytes, so three copies of every figure of two studies still fit into a repository.
"""

import base64
from io import BytesIO

COLOURS = 128


def shrink_png(data: bytes) -> bytes:
    """The same picture with a palette of at most 128 colours, on white; the original where that is smaller already."""
    from PIL import Image

    with Image.open(BytesIO(data)) as picture:
        if picture.mode == "P":
            return data
        solid = picture.convert("RGBA")
    white = Image.new("RGBA", solid.size, "white")
    flat = Image.alpha_composite(white, solid).convert("RGB")
    target = BytesIO()
    flat.quantize(COLOURS, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
    return min(target.getvalue(), data, key=len)


def shrink_base64(text: str) -> str:
    """`shrink_png` on a picture as notebooks hold it; text that is no PNG comes back as it was."""
    from PIL import UnidentifiedImageError

    try:
        return base64.b64encode(shrink_png(base64.b64decode(text))).decode()
    except (ValueError, UnidentifiedImageError, OSError):
        return text


def data_address(data: bytes) -> str:
    """A PNG as an address that stands in the page itself."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
