"""Label and field selectors: one place to import both from."""

from sampan.api.fieldselectors import EVERY_FIELD, FieldRequirement, FieldSelector, parse_fields
from sampan.api.labelselectors import (
    EVERYTHING,
    NOTHING,
    LabelSelector,
    Requirement,
    SelectorError,
    check_requirement,
    of_labels,
    of_node_term,
    of_object,
    parse_labels,
)

__all__ = ["EVERYTHING", "EVERY_FIELD", "NOTHING", "FieldRequirement", "FieldSelector", "LabelSelector", "Requirement",
           "SelectorError", "check_requirement", "of_labels", "of_node_term", "of_object", "parse_fields",
           "parse_labels"]
