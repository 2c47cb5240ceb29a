"""A laboratory for log-augmented generation: reuse the reasoning of past tasks as text or as KV cache.

    import lagkit as lag

    run = lag.run("testbed", "runs/mine", policies=["no_logs", "kv_last_round"])  # the same line resumes
    run.summary()
    lag.ask(run, "Who is the spouse of Velmora's director?", ["no_logs", "kv_last_round"])

What is public stands in `__all__`, and is imported when it is first used: `import lagkit` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lagkit.util.lazy import attributes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lagkit import datasets as datasets
    from lagkit import stats as stats
    from lagkit import studies as studies
    from lagkit.agent.loop import Agent as Agent
    from lagkit.datasets.loaders import load as load_data
    from lagkit.logs.base import Store as Store
    from lagkit.logs.encode import encode as encode
    from lagkit.logs.retrieve import load_embedder as load_embedder
    from lagkit.model.api.model import APIModel as APIModel
    from lagkit.model.kv import KVBlock as KVBlock
    from lagkit.model.lm import LM as LM
    from lagkit.policy import POLICIES as POLICIES
    from lagkit.policy import Policy as Policy
    from lagkit.runs.config import RunConfig as RunConfig
    from lagkit.runs.experiment import Experiment as Experiment
    from lagkit.runs.load import reopen as load
    from lagkit.runs.register import register as register
    from lagkit.types import Limits as Limits
    from lagkit.types import Passage as Passage
    from lagkit.types import Question as Question
    from lagkit.types import Trace as Trace
    from lagkit.util.errors import LagkitError as LagkitError
    from lagkit.views import plots as plot
    from lagkit.views import tables as table
    from lagkit.views import widgets as widgets
    from lagkit.views.lab import ask as ask
    from lagkit.views.lab import conclude as conclude
    from lagkit.views.lab import open_run as open_run
    from lagkit.views.lab import run as run
    from lagkit.views.lab import show as show

# Where each public name is: `module:name`, or a module.
_PLACES = {
    "run": "lagkit.views.lab:run",
    "open_run": "lagkit.views.lab:open_run",
    "load": "lagkit.runs.load:reopen",
    "ask": "lagkit.views.lab:ask",
    "show": "lagkit.views.lab:show",
    "conclude": "lagkit.views.lab:conclude",
    "plot": "lagkit.views.plots",
    "table": "lagkit.views.tables",
    "widgets": "lagkit.views.widgets",
    "studies": "lagkit.studies",
    "stats": "lagkit.stats",
    "datasets": "lagkit.datasets",
    "register": "lagkit.runs.register:register",
    "load_data": "lagkit.datasets.loaders:load",
    "load_embedder": "lagkit.logs.retrieve:load_embedder",
    "encode": "lagkit.logs.encode:encode",
    "LM": "lagkit.model.lm:LM",
    "APIModel": "lagkit.model.api.model:APIModel",
    "KVBlock": "lagkit.model.kv:KVBlock",
    "Store": "lagkit.logs.base:Store",
    "Agent": "lagkit.agent.loop:Agent",
    "Experiment": "lagkit.runs.experiment:Experiment",
    "RunConfig": "lagkit.runs.config:RunConfig",
    "Policy": "lagkit.policy:Policy",
    "POLICIES": "lagkit.policy:POLICIES",
    "Limits": "lagkit.types:Limits",
    "Question": "lagkit.types:Question",
    "Passage": "lagkit.types:Passage",
    "Trace": "lagkit.types:Trace",
    "LagkitError": "lagkit.util.errors:LagkitError",
}
__all__ = [*_PLACES]
__getattr__, __dir__ = attributes(__name__, _PLACES, "__version__")
