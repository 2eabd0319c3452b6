"""The patch types of the API: pure functions from an object and a patch to a new object.

None of them changes its arguments. A patch that cannot be understood is ApiError 400, one that cannot be applied
(a failed `test`, a path that is not there) 422, as upstream answers.
"""

from master.apiserver.patch.json_patch import apply_json_patch
from master.apiserver.patch.merge import apply_merge_patch
from master.apiserver.patch.strategic import apply_strategic_patch

__all__ = ["apply_json_patch", "apply_merge_patch", "apply_strategic_patch"]
