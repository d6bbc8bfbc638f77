"""The page on which a fine-tuning is put together, looked at, and started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.errors import Fault, InputError
from finery.files import sha256_json
from finery.jobs import service
from finery.recipe.inputs import SPLITS
from finery.studio import fine_tune_form as forms
from finery.studio import fine_tune_job as jobs
from finery.studio import fine_tune_look as looks
from finery.studio import fine_tune_models as models
from finery.studio import fine_tune_upload as upload
from finery.studio.fine_tune_form import Form
from finery.studio.fine_tune_texts import texts
from finery.studio.formats import segment
from finery.studio.layout import form_of, fragment, go, page, workspace_of
from finery.workspace import assets, machine, references
from finery.workspace.asset import Asset
from finery.workspace.errors import ConflictError
from finery.workspace.place import Workspace

LOOK, START, UPLOADED, EDITED = "look", "start", "upload", "edit"
DO, LOOKED = "do", "looked"
MOST_DATA = 200  # data assets that the form lists; the newest version of each


@dataclass(frozen=True)
class Data:
    """A data asset of the list."""

    reference: str
    words: str


def show(request: Request) -> Response:
    """The empty form, or that of a run, a model or data that the address names."""
    workspace, asked = workspace_of(request), request.query_params
    if origin := asked.get(forms.FROM, ""):
        form = _cloned(workspace, origin)
    else:
        form = forms.blank(model=asked.get("model", ""), train=asked.get("data", ""))
    return _page(request, form)


def send(request: Request) -> Response:
    """What the form's buttons ask for: check it, start it, or take a file alone."""
    workspace, sent = workspace_of(request), form_of(request)
    do = sent.get(DO, LOOK)
    if do not in (LOOK, START, UPLOADED, EDITED):
        raise InputError([Fault(DO, repr(do[:40]), f"{LOOK}, {START} or {UPLOADED}")])
    form = _sent(workspace, sent)
    form = forms.with_faults(form, getattr(request.state, "upload_faults", ()))
    if do in (UPLOADED, EDITED):
        return _page(request, form)
    asked, form = jobs.wanted(workspace, form)
    if asked is None:
        return _page(request, form, status=400 if do == START else 200)
    mark = sha256_json(asked.recipe)
    if do == START and sent.get(LOOKED) == mark:
        return _started(request, asked)
    look = looks.look(workspace, asked)
    form = forms.with_faults(form, look.faults)
    if do == START and not form.faults:
        return _started(request, asked)
    return _page(request, form, look, asked, mark, status=400 if do == START else 200)


def _started(request: Request, asked: jobs.Wanted) -> Response:
    job = jobs.start(workspace_of(request), asked)
    return go(request, f"/studio/jobs/{segment(job.name)}", f"{asked.name} is on its way.")


def _sent(workspace: Workspace, sent: Mapping[str, str]) -> Form:
    form = forms.typed(sent)
    origin = sent.get(forms.FROM, "")
    if not origin:
        return form
    original = _cloned(workspace, origin)
    return replace(form, original=original.original, origin=origin)


def _cloned(workspace: Workspace, origin: str) -> Form:
    """The form of a run; raises ConflictError for a job of another kind."""
    job = service.get(workspace, origin)
    if not jobs.is_fine_tuning(job):
        raise ConflictError(f"{job.display_name} is no fine-tuning, whose settings fit the form.")
    values = jobs.values_of(workspace, job)
    return Form(values, original=values, origin=origin)


def _page(
    request: Request,
    form: Form,
    look: looks.Look | None = None,
    asked: jobs.Wanted | None = None,
    mark: str = "",
    *,
    status: int = 200,
) -> Response:
    workspace = workspace_of(request)
    good = asked is not None and look is not None and not form.faults
    values: dict[str, Any] = {
        "form": form,
        "groups": forms.groups(),
        "changed": {group.name: forms.changed(form, group) for group in forms.groups()},
        "models": _with_chosen(models.choices(workspace), form),
        "data": data_choices(workspace, form),
        "splits": SPLITS,
        "largest": upload.LARGEST,
        "look": look,
        "mark": mark if good else "",
        "texts": texts(workspace, asked) if asked is not None and good else [],
        "machine_bytes": machine.memory_gib() * machine.GIB,
    }
    if request.headers.get("hx-request"):
        return fragment(request, "fine_tune_form.html", **values)
    title = "Clone with changes" if form.origin else "Fine-tune a model"
    return page(request, "fine_tune.html", status, title=title, active="", **values)


def _with_chosen(found: list[models.Choice], form: Form) -> list[models.Choice]:
    """The models of the list, and the one that is chosen if it is another."""
    chosen = form.values[forms.MODEL]
    if not chosen or chosen in {one.reference for one in found}:
        return found
    return [models.Choice(chosen, forms.short(chosen), "", "", 0, "", 0, ""), *found]


def data_choices(workspace: Workspace, form: Form) -> list[Data]:
    """The newest version of each data asset, newest first, and what is chosen besides."""
    every = assets.newest(workspace, "data", "")
    newest = sorted(every, key=lambda one: one.created_at, reverse=True)
    found = [Data(references.asset_uri(one), _words(one)) for one in newest[:MOST_DATA]]
    known = {one.reference for one in found}
    chosen = dict.fromkeys(form.values[split] for split in SPLITS)
    return [*(Data(one, forms.short(one)) for one in chosen if one and one not in known), *found]


def _words(asset: Asset) -> str:
    return f"{asset.name}:{asset.version}"
