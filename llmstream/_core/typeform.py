"""A Python type as JSON: its schema, and values of it from JSON and to JSON. Pure.

msgspec does the work for Structs, dataclasses, TypedDicts, NamedTuples, Enums, Literals, unions,
containers and scalars; pydantic for its own models, where the type has one. The schema is written
here and not by `msgspec.json.schema`, which fails for defaults that JSON does not have, gives a
datetime no format, and differs from version to version.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import msgspec.inspect as mi

from ..errors import ConfigurationError
from .checks import checked_json
from .schema import mended

__all__ = ["Misfit", "TypeForm", "default_of", "not_json", "type_name", "with_definitions"]

T = TypeVar("T")
Schema = dict[str, Any]

_SHOWN = 3  # of the faults that pydantic finds, those that are told
_PLACES = re.compile(r" - at `\$([^`]*)` - at `([^`]*)`$")  # of a model, and inside it
_NAME = re.compile(r"[^a-zA-Z0-9._-]")


class Misfit(ValueError):
    """A value does not fit a type. The message is a sentence with the place, as msgspec writes
    it: "Expected `int`, got `str` - at `$.days`". It can be sent back to a model."""


class TypeForm(Generic[T]):
    """A type as JSON. Immutable; any thread may use it.

    `type` is the type, `schema` its JSON schema, with `$defs` and a `$ref` as root where the type
    has a name. A property that may be left out is not among the `required` ones.
    """

    __slots__ = ("_decode", "_encode", "schema", "type")

    def __init__(
        self,
        type: Any,
        schema: Schema,
        decode: Callable[[bytes], T],
        encode: Callable[[T], bytes],
    ) -> None:
        self.type = type
        self.schema = schema
        self._decode = decode
        self._encode = encode

    @classmethod
    def of(cls, type: Any) -> TypeForm[Any]:
        """The form of a type. Raises ConfigurationError, which says why, for one that JSON cannot
        have: two dataclasses in a union, say, which nothing tells apart."""
        return _forms(cls, (type,))[0]

    @classmethod
    def of_each(cls, types: Sequence[Any]) -> list[TypeForm[Any]]:
        """The forms of several types. Definitions of one name in their schemas are the same."""
        return _forms(cls, types)

    def __repr__(self) -> str:
        return f"TypeForm({type_name(self.type)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return TypeForm.of, (self.type,)

    def decode(self, data: str | bytes) -> T:
        """The value that JSON text stands for. Raises Misfit, a ValueError, for text that is not
        JSON or does not fit the type. A null stands for a field's default where the field may be
        left out and does not take null. What a method of the type itself raises beside ValueError
        and TypeError is not caught."""
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
        try:
            try:
                return self._decode(raw)
            except Misfit:
                meant = self._mended(raw)
                if meant is None:
                    raise
            return self._decode(meant)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Misfit(not_json(exc)) from None
        except RecursionError:
            raise Misfit("The JSON is nested too deeply") from None

    def _mended(self, raw: bytes) -> bytes | None:
        """The JSON as it was meant, None if it says what it means."""
        try:
            value = msgspec.json.decode(raw)
        except msgspec.ValidationError:  # a number that is too large
            return None
        meant = mended(value, self.schema)
        try:
            return None if meant is value else msgspec.json.encode(meant)
        except OverflowError:  # an integer that is read, and not written
            return None

    def encode(self, value: T) -> bytes:
        """The JSON text of a value of the type. Raises ConfigurationError for what JSON cannot
        have."""
        try:
            return self._encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise ConfigurationError(
                f"a value of {type_name(self.type)} cannot be written as JSON ({exc})"
            ) from None


def not_json(exc: Exception) -> str:
    """The sentence for text that cannot be read as JSON."""
    if isinstance(exc, UnicodeDecodeError):
        return "The text is not UTF-8"
    text = str(exc)
    return text if text.startswith("JSON is malformed") else f"JSON is malformed: {text}"


def type_name(type: Any) -> str:
    """A type as messages show it."""
    name = getattr(type, "__name__", None)
    if isinstance(name, str) and not typing.get_args(type):
        return name
    return re.sub(r"\b[\w.]+\.(?=\w)", "", repr(type))[:200]


def _forms(cls: Any, types: Sequence[Any]) -> list[TypeForm[Any]]:
    own = [type for type in types if not _is_for_pydantic(type)]
    schemas = iter(_schemas_of(own))
    forms: list[TypeForm[Any]] = []
    for type in types:
        if any(type is one for one in own):
            form = cls(type, next(schemas), _msgspec_decode(type), _msgspec_encode)
        else:
            form = _pydantic_form(cls, type)
        forms.append(form)
    return forms


# ---- msgspec -----------------------------------------------------------------------------------


def _msgspec_decode(type: Any) -> Callable[[bytes], Any]:
    decoder = msgspec.json.Decoder(type, dec_hook=_from_json)

    def decode(data: bytes) -> Any:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError as exc:
            raise Misfit(_PLACES.sub(r" - at `\2\1`", str(exc))) from None

    return decode


def _from_json(type: Any, value: Any) -> Any:
    """A value of a type that msgspec does not know. Raises ValueError, to which msgspec adds the
    place."""
    model = _model_of(type)
    if model is None:
        raise NotImplementedError
    try:
        return model.model_validate_json(msgspec.json.encode(value))
    except OverflowError as exc:  # an integer that is read, and not written
        raise ValueError(str(exc)) from None
    except ValueError as exc:
        raise ValueError(_faults(exc)[0][0]) from None


def _msgspec_encode(value: Any) -> bytes:
    return _written(msgspec.to_builtins(value, str_keys=True, enc_hook=_to_json))


def _written(value: Any) -> bytes:
    checked_json("the value", value)  # the encoder writes NaN as null
    return msgspec.json.encode(value)


def _to_json(value: Any) -> Any:
    if _model_of(type(value)) is None:
        raise TypeError(f"objects of type {type(value).__name__} are not supported")
    return value.model_dump(mode="json", by_alias=True)


def _schemas_of(types: Sequence[Any]) -> list[Schema]:
    infos = []
    for type in types:
        try:
            infos.append(mi.type_info(type))
            msgspec.json.Decoder(type, dec_hook=_from_json)
        except NameError as exc:
            raise ConfigurationError(
                f"{type_name(type)} names a type that is not found ({exc}): define it at the level "
                "of the module, or without quotes and `from __future__ import annotations`"
            ) from None
        except RecursionError:
            raise ConfigurationError(f"{type_name(type)} is nested too deeply") from None
        except Exception as exc:  # TypeError, and whatever annotations raise
            raise ConfigurationError(_refused(type, str(exc))) from None
    writer = _SchemaWriter()
    return [writer.whole(info, type) for info, type in zip(infos, types, strict=True)]


_TAGS = "tell them apart: `class A(msgspec.Struct, tag=True)`, for each of them"
_ADVICE = (
    ("JSON does not have", "use a type that JSON has, such as str, and convert it"),
    ("more than one", _TAGS),
    ("tagged", _TAGS),
    ("Literal", "use strings, integers and None"),
    ("Enum", "use an Enum whose values are all strings or all integers"),
    ("key", "use dicts with strings as keys"),
)


def _refused(type: Any, why: str) -> str:
    why = why.splitlines()[0] if why else "no reason is given"
    advice = next((text for word, text in _ADVICE if word in why), "")
    return f"{type_name(type)} cannot be had as JSON: {why}" + (f". {advice}" if advice else "")


class _SchemaWriter:
    """Writes the schemas of several types, which share their definitions."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}  # a class -> its name among the definitions
        self._definitions: dict[str, Schema] = {}

    def whole(self, info: mi.Type, type: Any) -> Schema:
        self._type = type
        body = self._write(info)
        used: dict[str, Schema] = {}
        left = [body]
        while left:  # what this type refers to, of all that has been written
            for name in _names_in(left.pop()):
                if name not in used:
                    used[name] = self._definitions[name]
                    left.append(used[name])
        return {**body, "$defs": used} if used else body

    def _write(self, info: mi.Type) -> Schema:
        """The schema of a type, with what its annotations add."""
        added: Schema = {}
        while isinstance(info, mi.Metadata):
            added = {**(info.extra_json_schema or {}), **added}
            info = info.type
        written = self._of_kind(info)
        if added and "anyOf" in added:
            written = {}  # the annotation describes the type in its own way
        return {**written, **added}

    def _of_kind(self, info: mi.Type) -> Schema:
        writer = _WRITERS.get(type(info))
        if writer is None:
            raise ConfigurationError(
                _refused(self._type, f"it contains {type(info).__name__.removesuffix('Type')}")
            )
        written: Schema = writer(self, info)
        return written

    # -- scalars

    def _number(self, info: Any) -> Schema:
        limits = {
            "minimum": info.ge,
            "exclusiveMinimum": info.gt,
            "maximum": info.le,
            "exclusiveMaximum": info.lt,
            "multipleOf": info.multiple_of,
        }
        kind = "integer" if isinstance(info, mi.IntType) else "number"
        return {"type": kind, **_given(limits)}

    def _string(self, info: Any) -> Schema:
        limits = {
            "minLength": info.min_length,
            "maxLength": info.max_length,
            "pattern": info.pattern,
        }
        return {"type": "string", **_given(limits)}

    def _bytes(self, info: Any) -> Schema:
        limits = {
            name: None if length is None else 4 * ((length + 2) // 3)
            for name, length in (("minLength", info.min_length), ("maxLength", info.max_length))
        }
        return {"type": "string", "contentEncoding": "base64", **_given(limits)}

    def _moment(self, info: Any) -> Schema:
        # One without a zone is accepted with one too, unless the annotation refuses it.
        kind = "date-time" if isinstance(info, mi.DateTimeType) else "time"
        return {"type": "string", "format": f"partial-{kind}" if info.tz is False else kind}

    def _literal(self, info: mi.LiteralType) -> Schema:
        if any(isinstance(value, bool) for value in info.values):  # msgspec takes it for a number
            raise ConfigurationError(_refused(self._type, "a Literal has True or False: use bool"))
        return _one_of(info.values)

    def _enum(self, info: mi.EnumType) -> Schema:
        written = _one_of([one.value for one in info.cls])
        return self._defined(info.cls, lambda: {**_doc(info.cls), **written})

    # -- containers

    def _collection(self, info: Any) -> Schema:
        unique = isinstance(info, (mi.SetType, mi.FrozenSetType))
        limits = {"minItems": info.min_length, "maxItems": info.max_length}
        return {
            "type": "array",
            "items": self._write(info.item_type),
            **_given(limits),
            **({"uniqueItems": True} if unique else {}),
        }

    def _tuple(self, info: mi.TupleType) -> Schema:
        return _positions([self._write(item) for item in info.item_types], len(info.item_types))

    def _dict(self, info: Any) -> Schema:
        written: Schema = {"type": "object", "additionalProperties": self._write(info.value_type)}
        names = self._names_of_keys(info.key_type)
        if names:
            written["propertyNames"] = names
        limits = {"minProperties": info.min_length, "maxProperties": info.max_length}
        return {**written, **_given(limits)}

    def _names_of_keys(self, info: mi.Type) -> Schema:
        names = self._write(info)
        if names.get("type") in ("integer", "number"):
            return {"pattern": r"^-?\d+(\.\d+)?$"} if names["type"] == "number" else _WHOLE
        if names.get("type", "string") != "string" and "anyOf" not in names:
            raise ConfigurationError(_refused(self._type, "a dict has keys that are no strings"))
        return {} if names.keys() <= {"type"} else names

    def _union(self, info: mi.UnionType) -> Schema:
        branches = [self._write(one) for one in info.types]
        # Python puts None wherever it was written; a model reads what the value is, first.
        branches.sort(key=lambda branch: branch == _NULL)
        return {"anyOf": branches}

    # -- classes

    def _struct(self, info: mi.StructType) -> Schema:
        tag: Schema = {}
        if info.tag_field is not None:
            tag = {info.tag_field: _one_of([info.tag])}
        return self._defined(
            info.cls, lambda: self._fields(info, tag, info.array_like, info.forbid_unknown_fields)
        )

    def _class(self, info: Any) -> Schema:
        in_array = isinstance(info, mi.NamedTupleType)
        return self._defined(info.cls, lambda: self._fields(info, {}, in_array, in_array))

    def _fields(self, info: Any, tag: Schema, in_array: bool, closed: bool) -> Schema:
        properties = dict(tag)
        required = [*tag]
        for field in info.fields:
            written = self._write(field.type)
            if field.required:
                required.append(field.encode_name)
            else:
                written = {**written, **_default(field)}
            properties[field.encode_name] = written
        doc = _doc(info.cls)
        if in_array:
            least = len(properties)
            for name in reversed(properties):
                if name in required:
                    break
                least -= 1
            return {**doc, **_positions([*properties.values()], least, closed)}
        written = {"type": "object", "properties": properties, "required": required}
        return {**doc, **written, **({"additionalProperties": False} if closed else {})}

    def _custom(self, info: mi.CustomType) -> Schema:
        model = _model_of(info.cls)
        if model is None:
            raise ConfigurationError(
                _refused(self._type, f"it contains {type_name(info.cls)}, which JSON does not have")
            )
        name = self._names.get(model)
        if name is None:
            written = with_definitions(_model_schema(model), self._definitions)
            ref = written.get("$ref")  # a model that contains itself is a definition already
            name = str(ref).rpartition("/")[2] if ref else self._free_name(model.__name__)
            self._names[model] = name
            if not ref:
                self._definitions[name] = written
        return {"$ref": f"#/$defs/{name}"}

    def _defined(self, cls: Any, write: Callable[[], Schema]) -> Schema:
        """A reference to the definition of a class, which is written once."""
        name = self._names.get(cls)
        if name is None:
            name = self._names[cls] = self._free_name(_class_name(cls))
            self._definitions[name] = {}  # it may refer to itself
            self._definitions[name] = write()
        return {"$ref": f"#/$defs/{name}"}

    def _free_name(self, wanted: str) -> str:
        wanted = _NAME.sub("_", wanted)
        name, number = wanted, 1
        while name in self._definitions:
            number += 1
            name = f"{wanted}_{number}"
        return name


_NULL: Schema = {"type": "null"}
_WHOLE = {"pattern": r"^-?\d+$"}
_Writer = Callable[[Any, Any], Schema]


def _plain(**schema: Any) -> _Writer:
    return lambda writer, info: dict(schema)


_WRITERS: dict[type, _Writer] = {
    mi.AnyType: _plain(),
    mi.RawType: _plain(),
    mi.NoneType: _plain(type="null"),
    mi.BoolType: _plain(type="boolean"),
    mi.IntType: _SchemaWriter._number,
    mi.FloatType: _SchemaWriter._number,
    mi.StrType: _SchemaWriter._string,
    mi.BytesType: _SchemaWriter._bytes,
    mi.ByteArrayType: _SchemaWriter._bytes,
    mi.MemoryViewType: _SchemaWriter._bytes,
    mi.DateTimeType: _SchemaWriter._moment,
    mi.TimeType: _SchemaWriter._moment,
    mi.DateType: _plain(type="string", format="date"),
    mi.TimeDeltaType: _plain(type="string", format="duration"),
    mi.UUIDType: _plain(type="string", format="uuid"),
    mi.DecimalType: _plain(type="string", format="decimal"),
    mi.LiteralType: _SchemaWriter._literal,
    mi.EnumType: _SchemaWriter._enum,
    mi.ListType: _SchemaWriter._collection,
    mi.SetType: _SchemaWriter._collection,
    mi.FrozenSetType: _SchemaWriter._collection,
    mi.VarTupleType: _SchemaWriter._collection,
    mi.TupleType: _SchemaWriter._tuple,
    mi.DictType: _SchemaWriter._dict,
    mi.UnionType: _SchemaWriter._union,
    mi.StructType: _SchemaWriter._struct,
    mi.TypedDictType: _SchemaWriter._class,
    mi.DataclassType: _SchemaWriter._class,
    mi.NamedTupleType: _SchemaWriter._class,
    mi.CustomType: _SchemaWriter._custom,
}


def _one_of(values: Sequence[Any]) -> Schema:
    """One of these values. Some servers (Gemini) want the type beside them, where there is one."""
    kinds: set[str] = {
        "null" if v is None else "string" if isinstance(v, str) else "integer" for v in values
    }
    return {**({"type": kinds.pop()} if len(kinds) == 1 else {}), "enum": [*values]}


def _given(limits: Schema) -> Schema:
    return {name: value for name, value in limits.items() if value is not None}


def _positions(items: list[Schema], least: int, closed: bool = True) -> Schema:
    """An array whose items have a schema each, by their position."""
    written: Schema = {"type": "array", "minItems": least}
    if closed:
        written["maxItems"] = len(items)
    if items:
        written["prefixItems"] = items
    return {**written, "items": {}}  # nothing follows them, or anything does


def _default(field: mi.Field) -> Schema:
    """The default of a field, where JSON has it."""
    value = field.default
    if field.default_factory in (list, dict, set, tuple, frozenset):
        value = field.default_factory()
    if value is msgspec.NODEFAULT:
        return {}
    return default_of(value)


def default_of(value: Any) -> Schema:
    """`default` of a schema, where JSON has the value."""
    try:
        plain = msgspec.to_builtins(value, str_keys=True)
        checked_json("default", plain)
        return {"default": plain}
    except Exception:  # of whatever methods the value has
        return {}


def _class_name(cls: Any) -> str:
    origin = typing.get_origin(cls) or cls
    arguments = [type_name(one) for one in typing.get_args(cls)]
    return "_".join([origin.__name__, *arguments])


def _doc(cls: Any) -> Schema:
    """The description of a class: its own docstring, not one that Python has made or inherited."""
    cls = typing.get_origin(cls) or cls
    doc = vars(cls).get("__doc__")
    if not isinstance(doc, str) or doc.startswith(f"{cls.__name__}("):
        return {}
    text = inspect.cleandoc(doc)
    return {"description": text} if text and text != "An enumeration." else {}


def _names_in(schema: Any) -> Iterator[str]:
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            ref = one.get("$ref")
            if isinstance(ref, str):
                yield ref.rpartition("/")[2]
            left += one.values()
        elif isinstance(one, list):
            left += one


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    if isinstance(schema, list):
        return [_renamed(one, names) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#/$defs/{names.get(value.rpartition('/')[2], value.rpartition('/')[2])}"
        if key == "$ref" and isinstance(value, str)
        else _renamed(value, names)
        for key, value in schema.items()
    }


def with_definitions(schema: Schema, definitions: Schema) -> Schema:
    """`schema` without its `$defs`, which are added to `definitions`: under another name where that
    has one of this name which is not the same."""
    inner: Schema = schema.get("$defs", {})
    names = {}
    for name, definition in inner.items():
        free, number = name, 1
        while free in definitions and definitions[free] != definition:
            number += 1
            free = f"{name}_{number}"
        names[name] = free
    for name, definition in inner.items():
        definitions[names[name]] = _renamed(definition, names)
    written: Schema = _renamed({k: v for k, v in schema.items() if k != "$defs"}, names)
    return written


# ---- pydantic ----------------------------------------------------------------------------------
# A type of pydantic can only be there where the caller has imported pydantic: nothing else imports
# it.


def _model_of(type: Any) -> Any:
    """`type` if it is a model of pydantic, else None."""
    is_model = isinstance(type, _CLASS) and any(
        one.__module__.partition(".")[0] == "pydantic" and one.__name__ == "BaseModel"
        for one in type.__mro__
    )
    return type if is_model else None


_CLASS: Any = type


def _is_pydantic(type: Any) -> bool:
    return _model_of(type) is not None or hasattr(type, "__pydantic_validator__")


def _model_schema(model: Any) -> Schema:
    try:
        schema: Schema = model.model_json_schema()
    except Exception as exc:  # pydantic's, or what a method of the model raises
        raise ConfigurationError(_refused(model, str(exc))) from None
    return schema


def _is_for_pydantic(type: Any) -> bool:
    """Whether pydantic has to read it: it is a type of pydantic, is put together of one, or is
    described by its annotations; and no class is between that only msgspec knows. Raises
    ConfigurationError where such annotations are in one: msgspec does not know them."""
    found = False
    left: list[tuple[Any, Any]] = [(type, None)]  # with the class whose field it is
    seen: list[Any] = []
    while left and len(seen) < 1000:
        one, owner = left.pop()
        if any(one is other for other in seen):
            continue
        seen.append(one)
        if typing.get_origin(one) is typing.Annotated:
            if any(_is_of_pydantic(more) for more in one.__metadata__):
                if _is_struct(owner):
                    raise ConfigurationError(
                        f"{type_name(owner)} is a Struct of msgspec, which does not know the "
                        "annotations of pydantic: use msgspec.Meta"
                    )
                found = True
            left.append((one.__origin__, owner))
            continue
        if _is_pydantic(one):
            found = found or owner is None  # in a field of another class, that class decides
            continue
        left += [(inner, owner) for inner in typing.get_args(one)]
        left += [(hint, one) for hint in _field_hints(one)]
    return found and not any(_is_struct(one) for one in seen)


def _is_struct(type: Any) -> bool:
    return isinstance(type, _CLASS) and issubclass(type, msgspec.Struct)


def _field_hints(type: Any) -> list[Any]:
    """The hints of a class's fields; those that cannot be read are told of elsewhere."""
    type = typing.get_origin(type) or type
    if not isinstance(type, _CLASS) or type.__module__ == "builtins":
        return []
    try:
        return [*typing.get_type_hints(type, include_extras=True).values()]
    except Exception:  # whatever an annotation raises
        return []


def _is_of_pydantic(value: Any) -> bool:
    module = getattr(type(value), "__module__", "")
    return isinstance(module, str) and module.partition(".")[0] in ("pydantic", "annotated_types")


def _pydantic_form(cls: Any, kind: Any) -> TypeForm[Any]:
    from pydantic import TypeAdapter

    try:
        adapter: Any = TypeAdapter(kind)
        schema = adapter.json_schema()
    except Exception as exc:  # its own errors, and what annotations and methods raise
        raise ConfigurationError(_refused(kind, str(exc))) from None

    def decode(data: bytes) -> Any:
        try:
            return adapter.validate_json(data)
        except ValueError as exc:
            faults = _faults(exc)
            if any(kind == "json_invalid" for _, kind in faults):
                msgspec.json.decode(data)  # raises, in our own words
            raise Misfit("; ".join(text for text, _ in faults)) from None

    def encode(value: Any) -> bytes:
        return _written(adapter.dump_python(value, mode="json", by_alias=True))

    return typing.cast("TypeForm[Any]", cls(kind, schema, decode, encode))


def _faults(exc: ValueError) -> list[tuple[str, str]]:
    """What pydantic has found, in msgspec's form, and the kind of each. The values that it was
    given, and links to its manual, are left out."""
    errors = getattr(exc, "errors", None)
    if errors is None:
        return [(str(exc), "")]
    found = errors(include_url=False, include_context=False, include_input=False)
    told = []
    for one in found[:_SHOWN]:
        place = "$"
        for step in one["loc"]:
            place += f"[{step}]" if isinstance(step, int) else f".{step}"
        told.append((f"{one['msg']} - at `{place}`", one["type"]))
    if len(found) > _SHOWN:
        told.append((f"and {len(found) - _SHOWN} more", ""))
    return told
