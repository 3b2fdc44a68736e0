"""The YAML header of a model card, from nested mappings, lists, texts and numbers."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Nothing that YAML reads as a number, a truth value or null.
_PLAIN_KEY = "(?!(?:null|true|false)$)[a-z_]{4,}(-[a-z]+)?"


def front_matter(values: Mapping[str, Any]) -> str:
    r"""A YAML header of nested mappings, lists, texts and numbers; texts are quoted, whatever they hold.

    Raises:
      ValueError: for a number that is not finite.

    Example:
      >>> print(front_matter({"tags": ["a: b", "\n"], "model-index": [{"name": "x", "size": 2}]}))
      ---
      tags:
        - "a: b"
        - "\n"
      model-index:
        - name: "x"
          size: 2
      ---
    """
    return "\n".join(["---", *_yaml(values), "---"])


def _yaml(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = key if re.fullmatch(_PLAIN_KEY, key) else _scalar(key)
            if not isinstance(inner, Mapping | list):
                yield f"{name}: {_scalar(inner)}"
            elif not inner:
                yield f"{name}: {'{}' if isinstance(inner, Mapping) else '[]'}"
            else:
                yield f"{name}:"
                yield from (f"  {line}" for line in _yaml(inner))
    else:
        for item in value:
            first, *others = _yaml(item) if isinstance(item, Mapping) else [_scalar(item)]
            yield f"- {first}"
            yield from (f"  {line}" for line in others)


def _scalar(value: Any) -> str:
    """A JSON scalar, which is one of YAML too, but for characters that YAML would not print."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, float) and "." not in text:
        text = text.replace("e", ".0e")  # 1e-05 is a text in YAML 1.1
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
