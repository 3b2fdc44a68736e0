"""What a damaged file raises."""


class CodecError(ValueError):
    """The bytes are no packed model file, or a damaged one; the text says where."""
