"""Networks in files: the compact `.lil`, and weights from elsewhere."""

from lilliput.registry import discover

discover(__name__, __path__)  # encodings of sections register themselves

# Names that are also those of modules come after the modules.
from lilliput.store.account import Row, account  # noqa: E402
from lilliput.store.codec import Codec, codecs  # noqa: E402
from lilliput.store.file import file_bytes, load, read_record, save  # noqa: E402
from lilliput.store.rebuild import factory, rebuild  # noqa: E402
from lilliput.store.weights import fill, load_weights  # noqa: E402

__all__ = [
    "Codec", "Row", "account", "codecs", "factory", "file_bytes", "fill", "load", "load_weights", "read_record", "rebuild",
    "save",
]  # fmt: skip
