"""The packed model file: as small as the report says, and every byte accounted for. NumPy alone reads it."""

from jopt.codec.error import CodecError as CodecError
from jopt.codec.grid import Spec as Spec
from jopt.codec.integers import Integers as Integers
from jopt.codec.ledger import KINDS as KINDS
from jopt.codec.ledger import Entry as Entry
from jopt.codec.ledger import Ledger as Ledger
from jopt.codec.model import Packed as Packed
from jopt.codec.model import encode as encode
from jopt.codec.model import save as save
from jopt.codec.reading import MAX_BYTES as MAX_BYTES
from jopt.codec.reading import File as File
from jopt.codec.reading import decode as decode
from jopt.codec.reading import load as load
from jopt.codec.reading import read as read
from jopt.codec.stages import StageBytes as StageBytes
from jopt.codec.stages import stages as stages
