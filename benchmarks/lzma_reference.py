"""What LZMA makes of the files that `configs/bytes_decoder.py` holds out for its test: a reference for its bits.

    python -m benchmarks.lzma_reference

A decoder's bits per byte are those that an arithmetic coder would write with its probabilities, of every byte but
the first of the part. LZMA learns from no other text, but sees all that came before a byte, not a window of it.
"""

import lzma
from collections.abc import Iterable

from configs.bytes_decoder import get_config
from jopt import data

PRESET = 9 | lzma.PRESET_EXTREME


def bits_per_byte(contents: Iterable[bytes]) -> float:
    """Compressed bits for each byte, each content by itself, without the container's header and checksum.

    Example:
      >>> bits_per_byte([bytes(1000)]) < 0.2
      True
    """
    contents = list(contents)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": PRESET}]
    length = sum(len(lzma.compress(content, lzma.FORMAT_RAW, filters=filters)) for content in contents)
    return 8 * length / sum(map(len, contents))


def main() -> None:
    """Prints both figures."""
    source = get_config().data
    assert isinstance(source, data.Text)
    files = [stream.tobytes() for stream in source.streams()["test"]]
    print(f"{len(files)} files, {sum(map(len, files)):,} bytes, held out of {source.label}")
    print(f"LZMA, each file by itself:  {bits_per_byte(files):.3f} bits per byte")
    print(f"LZMA, all files joined:     {bits_per_byte([b''.join(files)]):.3f} bits per byte")


if __name__ == "__main__":
    main()
