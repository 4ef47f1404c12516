"""Parses text such as `"pad_crop(4) | flip | choice(mixup(0.8), cutmix(1.0))"` in a config."""

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cnnjax.augment import compose
from cnnjax.errors import UserError, unknown


def read(
  spec: str | None, makers: Mapping[str, Callable], where: str, kind: str, example: str
) -> list[Callable]:
  """Returns the operations that `spec` names, in order, made with their arguments.

  Arguments are literals. The positional ones of a maker with a parameter annotated `Callable`
  (`compose.choice`) are operations, or chains of them with | between.

  Args:
    spec: names with arguments, separated by |. None or blank: no operation.
    makers: by name. A maker checks its arguments.
    where: the first word of errors, such as "augment".
    kind: the word for an operation in errors, such as "augmentation".
    example: a correct text, for errors.

  Raises:
    UserError: text that cannot be parsed, an unknown name, or wrong arguments.
  """
  text = " ".join((spec or "").split())  # a long one may be broken into lines

  def unreadable(part: str) -> UserError:
    return UserError(
      f"{where}: cannot read {part!r}; write it as name or name(number), such as {example!r}"
    )

  def literal(node: ast.expr) -> Any:
    try:
      return ast.literal_eval(node)
    except (ValueError, TypeError):
      raise unreadable(ast.get_source_segment(text, node)) from None

  def chain(node: ast.expr) -> list[Callable]:
    waiting, parts = [node], []
    while waiting:
      node = waiting.pop()
      if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        waiting += [node.right, node.left]
      else:
        parts.append(operation(node))
    return parts

  def operation(node: ast.expr) -> Callable:
    part = ast.get_source_segment(text, node)
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name) or any(k.arg is None for k in call.keywords):
      raise unreadable(part)
    name = call.func.id
    if name not in makers:
      raise unknown(kind, name, makers)
    signature = inspect.signature(makers[name])
    nested = any(p.annotation is Callable for p in signature.parameters.values())
    read_argument = (lambda arg: compose.Chain(chain(arg))) if nested else literal
    args = [read_argument(arg) for arg in call.args]
    kwargs = {keyword.arg: literal(keyword.value) for keyword in call.keywords}
    try:
      signature.bind(*args, **kwargs)
    except TypeError as e:
      takes = str(signature).split(" ->")[0].replace("collections.abc.Callable", "operation")
      raise UserError(f"{where}: {part!r}: {e}; write {name}{takes}") from None
    return makers[name](*args, **kwargs)

  if not text:
    return []
  try:
    tree = ast.parse(text, mode="eval").body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise unreadable(text) from None
  return chain(tree)
