"""Bodies in, bodies out: parsing, the schema walk that makes an object canonical, and encoding.

The write path calls, in this order::

    parsed = parse(body, content_type, find_duplicates=strict or warn)  # 400 for what is no object
    outcome = registry.of("io.k8s.api.core.v1.Pod").clean(parsed.tree)  # in place; 400 for a wrong type
    problems = strict_problems(outcome.unknown, parsed.duplicates)      # texts for Warning headers, or:
    raise strict_error("v1", "Pod", problems)                           # 400, for fieldValidation=Strict
    ... defaults, the strategy's validation ...
    errors = join_errors(strategy_errors, outcome.errors)               # 422, all at once
    data, slot = encode_with_slot(tree)
"""

from master.apiserver.schema.encode import encode_with_slot
from master.apiserver.schema.errors import join_errors, strict_error, strict_problems
from master.apiserver.schema.parse import Parsed, parse
from master.apiserver.schema.registry import SchemaRegistry, load_definitions
from master.apiserver.schema.walk import Outcome, Schema

__all__ = ["Outcome", "Parsed", "Schema", "SchemaRegistry", "encode_with_slot", "join_errors", "load_definitions",
           "parse", "strict_error", "strict_problems"]
