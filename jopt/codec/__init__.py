"""The packed model file: as small as the report says, every byte accounted for, read with NumPy alone."""

from jopt.codec.container import CodecError as CodecError
from jopt.codec.grid import Spec as Spec
from jopt.codec.integers import Integers as Integers
from jopt.codec.ledger import KINDS as KINDS
from jopt.codec.ledger import Entry as Entry
from jopt.codec.ledger import Ledger as Ledger
from jopt.codec.ledger import StageBytes as StageBytes
from jopt.codec.reading import MAX_BYTES as MAX_BYTES
from jopt.codec.reading import File as File
from jopt.codec.reading import decode as decode
from jopt.codec.reading import load as load
from jopt.codec.reading import read as read
from jopt.codec.writing import Packed as Packed
from jopt.codec.writing import encode as encode
from jopt.codec.writing import save as save
from jopt.codec.writing import stages as stages
