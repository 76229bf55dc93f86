"""What every operation of the schema has in common, told once, when drf-spectacular has made the rest of it:
descriptions of what has none, headers, conditional and partial requests, errors and examples.

Examples are answers of the API itself, by component, in examples.json, which tests/contimg/api/test_described.py
writes, and compares with what is answered now.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from contimg.api.errors import CONTENT_TYPE
from contimg.api.meanings import meaning

Spec = dict[str, Any]
EXAMPLES = Path(__file__).with_name("examples.json")
JSON = "application/json"

ERRORS = {
    "400": "A parameter or the body is wrong; `errors` names each that is.",
    "401": "A token or a login is needed, or the one that was sent is not good.",
    "403": "The caller is known, and may not do this.",
    "404": "There is no such row.",
    "405": "This path does not take this method; `Allow` names those that it takes.",
    "406": "None of the forms that `Accept` names can be given.",
    "409": "It cannot be done as things are now; `code` and `detail` say why.",
    "410": "The file is not on disk any more.",
    "412": "It is not what `If-Match` or `If-Unmodified-Since` names.",
    "413": "The body is too large.",
    "415": "The body is in a form that is not read here; send JSON.",
    "416": "The range lies outside of the file; `Content-Range` says how long it is.",
    "422": "It cannot be made of the data that are there; `detail` says why.",
    "429": "Too many requests; come again after `Retry-After`.",
    "500": "A fault of the service, not of the request; its log has the rest under the `request_id`.",
    "503": "The service cannot answer now; come again after `Retry-After`.",
}
# Of the answers to a method, else to all.
SUCCESSES = {
    "get 200": "What was asked for.",
    "200": "It is done; this is how it stands now.",
    "201": "It was made.",
    "get 204": "There is nothing now.",
    "204": "It is done, and there is nothing to answer.",
    "206": "The part of the file that `Range` names.",
    "304": "It is what `If-None-Match` or `If-Modified-Since` names; nothing is sent.",
}

_TEXT = {"type": "string"}
HEADERS: dict[str, Spec] = {
    "X-Request-ID": {"description": "The id of the request, also in the server's log.", "schema": _TEXT},
    "ETag": {"description": "The version of what is answered, for `If-None-Match` and `If-Match`.", "schema": _TEXT},
    "Location": {"description": "The address of what was made.", "schema": _TEXT},
    "Last-Modified": {"description": "When the file was written, where it is kept.", "schema": _TEXT},
    "Accept-Ranges": {"description": "Always `bytes`: `Range` is taken.", "schema": _TEXT},
    "Content-Range": {"description": "Which bytes these are, and of how many: `bytes 0-99/1000`.", "schema": _TEXT},
    "Content-Disposition": {"description": "The name under which it is saved.", "schema": _TEXT},
    "Retry-After": {"description": "In how many seconds to come again.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "How to log in: `Bearer`.", "schema": _TEXT},
    "Allow": {"description": "The methods that the path takes.", "schema": _TEXT},
    "Deprecation": {"description": "Since when what was used is deprecated (RFC 9745).", "schema": _TEXT},
    "Sunset": {"description": "Until when what was used is there (RFC 8594).", "schema": _TEXT},
    "Link": {"description": "Where the deprecation and the sunset are described.", "schema": _TEXT},
}
OF_ERRORS = {
    "401": ["WWW-Authenticate"], "405": ["Allow"], "416": ["Content-Range"], "429": ["Retry-After"],
    "503": ["Retry-After"],
}  # fmt: skip
OF_FILES = ["ETag", "Accept-Ranges", "Content-Disposition"]

REQUEST_ID = {"X-Request-ID": "An id of yours for the request, in place of one of ours; letters, digits and `._:-`."}
CONDITIONAL = {
    "If-None-Match": "ETags that you have: the answer to one of them is a 304 without a body.",
    "If-Match": "ETags that you expect: another version is a 412.",
}
PARTIAL = {
    "If-Modified-Since": "The same as `If-None-Match` by the time of `Last-Modified`.",
    "If-Unmodified-Since": "The same as `If-Match` by the time of `Last-Modified`.",
    "Range": "One range of bytes, as `bytes=0-99`; several, and what cannot be read, get the whole file.",
    "If-Range": "An ETag: of another version the whole file is sent, whatever `Range` says.",
}

# Behind `__`, of a number or word; and of a time.
LOOKUPS = {
    "": "Equal to this", "lt": "Less than this", "lte": "At most this", "gt": "Greater than this",
    "gte": "At least this", "isnull": "Whether it has no value", "startswith": "Beginning with this",
}  # fmt: skip
_SEVERAL = "Multiple values may be separated by commas."  # drf-spectacular's own sentence
OF_TIMES = {"lt": "Before this", "lte": "Not after this", "gt": "After this", "gte": "Not before this"}


def complete(result: Spec, generator: Any, request: Any, public: bool) -> Spec:
    """A hook of drf-spectacular (`POSTPROCESSING_HOOKS`)."""
    components = result["components"]
    for name, schema in components["schemas"].items():
        _describe_properties(name, schema)
    used: set[str] = set()
    for path, operation_of in result["paths"].items():
        for method, operation in operation_of.items():
            _complete_operation(path, method, operation, components["schemas"])
            used |= {status for status in operation["responses"] if status >= "400"}
    components["responses"] = {f"Problem{status}": _problem(status) for status in sorted(used)}
    components["headers"] = {name: {**header, "required": True} for name, header in HEADERS.items()}
    components["examples"] = {name: {"value": value} for name, value in examples().items()}
    return result


@functools.cache
def examples() -> dict[str, Any]:
    return json.loads(EXAMPLES.read_text())


# --- properties --------------------------------------------------------------------------------------------------
def _describe_properties(component: str, schema: Spec) -> None:
    for name, said in schema.get("properties", {}).items():
        if _without_choices(said):
            continue
        if "$ref" in said:  # beside which a description would not be read
            said["allOf"] = [{"$ref": said.pop("$ref")}]
        said["description"] = _joined(meaning(name, of=component), said.get("description", ""))


def _without_choices(said: Spec) -> str:
    """A description without the list of words that drf-spectacular makes."""
    return said.get("description", "").partition("* `")[0].strip()


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# --- operations --------------------------------------------------------------------------------------------------
def _complete_operation(path: str, method: str, operation: Spec, schemas: Spec) -> None:
    answers = operation["responses"]
    content = [form for status in ("200", "201") for form in answers.get(status, {}).get("content", {}).values()]
    row = next((_row(form["schema"], schemas) for form in content if _row(form["schema"], schemas)), "")
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        _describe_parameter(path, parameter, row, schemas)
    is_deprecated = any(parameter.get("deprecated") for parameter in parameters)
    kinds = answers.get("200", {}).get("content", {})
    is_whole_list = "206" not in answers and "text/csv" in kinds
    has_version = method == "get" and kinds.keys() != {"text/event-stream"} and "200" in answers
    errors = {status for status in answers if status >= "400"}
    if has_version:
        answers["304"] = {}
        errors.add("412")
    if "requestBody" in operation:
        errors |= {"413", "415"}
        _give_examples(operation["requestBody"]["content"])
    asked = REQUEST_ID | (CONDITIONAL if has_version else {}) | (PARTIAL if "206" in answers else {})
    parameters += [
        {"name": name, "in": "header", "description": description, "schema": _TEXT}
        for name, description in asked.items()
    ]
    for status, answer in answers.items():
        always, sometimes = ["X-Request-ID"], [] if not is_deprecated else ["Deprecation", "Sunset", "Link"]
        if has_version and status in ("200", "304"):
            (sometimes if is_whole_list else always).append("ETag")
        if is_whole_list and status == "200":
            sometimes.append("Content-Disposition")
        if "206" in answers and status in ("200", "206"):
            (always if status == "206" or JSON not in kinds else sometimes).extend(OF_FILES)
            sometimes.append("Last-Modified")
        if status == "206":
            always.append("Content-Range")
        if status == "201" and "id" in schemas[row]["properties"] and "$ref" in content[0]["schema"]:
            always.append("Location")
        answer["description"] = SUCCESSES.get(f"{method} {status}") or SUCCESSES.get(status, "")
        answer["headers"] = _headers(always, sometimes)
        _give_examples(answer.get("content", {}))
    operation["responses"] = {
        status: {"$ref": f"#/components/responses/Problem{status}"} if status in errors else answers[status]
        for status in sorted(answers.keys() | errors)
    }


def _headers(always: list[str], sometimes: list[str]) -> Spec:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in always} | {
        name: HEADERS[name] for name in sometimes
    }


def _describe_parameter(path: str, parameter: Spec, row: str, schemas: Spec) -> None:
    parameter["description"] = parameter.get("description", "").replace(_SEVERAL, "").strip()
    if _without_choices(parameter):
        return
    name, _, lookup = parameter["name"].partition("__")
    if parameter["in"] == "path":
        said = f"The `{name}` of a row of `{path.partition('{')[0]}`."
    elif name == "format":
        said = "The form of the answer, in place of what `Accept` says."
    else:
        said = _of_filter(parameter["schema"], lookup, _meaning_of_filter(name, row, schemas))
    parameter["description"] = _joined(said, parameter["description"])


def _meaning_of_filter(name: str, row: str, schemas: Spec) -> str:
    """What the field is that the rows of the list, or their detail, show."""
    shown = [schemas.get(component, {}).get("properties", {}).get(name, {}) for component in (row, f"{row}Detail")]
    return next(filter(None, map(_without_choices, shown)), meaning(name, of=row))


def _of_filter(schema: Spec, lookup: str, what: str) -> str:
    is_time = schema.get("format") == "date-time"
    if schema["type"] == "array":
        how = "One of these, separated by commas"
    elif schema["type"] == "boolean" and not lookup:
        return what
    else:
        how = (is_time and OF_TIMES.get(lookup)) or LOOKUPS[lookup]
    return f"{how}: {what}" if what else ""


def _row(schema: Spec, schemas: Spec) -> str:
    """The component that an answer is, or is a list or page of."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if not name:
        return _row(schema["items"], schemas) if "items" in schema else ""
    page = schemas[name].get("properties", {}).get("results")
    return _row(page, schemas) if page else name


# --- errors and examples -------------------------------------------------------------------------------------------
def _problem(status: str) -> Spec:
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    _give_examples(content, name=f"Problem{status}")
    always = ["X-Request-ID", *OF_ERRORS.get(status, [])]
    return {"description": ERRORS[status], "headers": _headers(always, []), "content": content}


def _give_examples(content: Spec, name: str = "") -> None:
    for media_type, form in content.items():
        if media_type in (JSON, CONTENT_TYPE):
            key = name or example_key(form["schema"])
            form["examples"] = {key: {"$ref": f"#/components/examples/{key}"}}


def example_key(schema: Spec) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return name or f"{example_key(schema['items'])}List"
