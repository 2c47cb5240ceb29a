"""Made-up embeddings, as many as wanted, distributed like those of real logs.

    python -m benchmarks.embeddings DATA/musique DATA/wikihop    # fit anew: writes embeddings.json beside this file

Before it is scaled to length 1, a log is a draw from a normal distribution with the mean and the spectrum of real
embeddings. `related` of the logs are correlated with a log before them, as a question is with another one about the
same things; the rest are drawn for themselves. Correlation with a parent, Beta distributed, leaves mean and spectrum as
they are and makes near neighbours, on all scales, as chance alone does not. A query is drawn in the same way beside a
log. What is fitted and kept are sums over all texts: no vector of any text, and not even the directions of the
spectrum, which no search depends on; a rotation by the seed takes their place.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lagkit.datasets import loaders as data
from lagkit.logs.retrieve import load_embedder
from lagkit.util.paths import at

FILE = Path(__file__).with_name("embeddings.json")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # the quantiles that are compared
CHUNK = 1 << 15
ALONE = 128  # so many logs come first that have no parents: a single one would be everybody's ancestor
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kin:
    """How near texts are to earlier ones: the share that is, and the Beta distribution of the correlation."""

    related: float
    alpha: float
    beta: float

    def correlations(self, rng: np.random.Generator, n: int) -> Array:
        """One for each of `n` texts: 0 for those that are drawn for themselves."""
        drawn = rng.beta(self.alpha, self.beta, n) * (rng.random(n) < self.related)
        return drawn.astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """What was fitted: eigenvalues of the covariance, means along their directions, how near logs and queries are."""

    spectrum: tuple[float, ...]
    mean: tuple[float, ...]
    query_mean: tuple[float, ...]
    logs: Kin
    queries: Kin

    @classmethod
    def load(cls, path: Path = FILE) -> Shape:
        """The fit that was kept."""
        raw = json.loads(path.read_text())["shape"]
        return cls(**{**raw, "logs": Kin(**raw["logs"]), "queries": Kin(**raw["queries"])})


class Embeddings:
    """A stream of made-up logs and the queries to them; the logs of a smaller `n` are the first of a larger one."""

    def __init__(self, shape: Shape, n: int, seed: int = 0) -> None:
        self._shape, self._seed, self.dim = shape, seed, len(shape.mean)
        self._spread = np.sqrt(np.float32(shape.spectrum))
        self._turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(self.dim, self.dim)))[0].astype(np.float32)
        self._raw = np.empty((n, self.dim), np.float32)
        start = 0
        while start < n:  # parents come from all logs before the chunk, which at first doubles them
            stop = min(n, max(ALONE, min(2 * start, start + CHUNK)))
            rng = np.random.default_rng((seed, start))
            self._raw[start:stop] = self._beside(rng, shape.logs, stop - start, start)
            start = stop
        self.logs = self._unit(self._raw, shape.mean)

    def queries(self, n: int, seed: int = 1) -> Array:
        """Unit vectors [n, dim] that ask for what is near some of the logs."""
        rng = np.random.default_rng((self._seed, seed, len(self._raw)))
        return self._unit(self._beside(rng, self._shape.queries, n, len(self._raw)), self._shape.query_mean)

    def _beside(self, rng: np.random.Generator, kin: Kin, n: int, earlier: int) -> Array:
        """`n` draws around the origin, some of them correlated with one of the first logs."""
        fresh = rng.standard_normal((n, self.dim), np.float32) * self._spread
        if not earlier:
            return fresh
        near = kin.correlations(rng, n)[:, None]
        return near * self._raw[rng.integers(earlier, size=n)] + np.sqrt(1 - near**2) * fresh

    def _unit(self, raw: Array, mean: Sequence[float]) -> Array:
        rows, mean = np.empty_like(raw), np.float32(mean)
        for start in range(0, len(raw), CHUNK):
            part = (raw[start : start + CHUNK] + mean) @ self._turn
            rows[start : start + CHUNK] = part / np.linalg.norm(part, axis=1, keepdims=True)
        return rows


def nearest(queries: Array, logs: Array, same: bool = False) -> dict[str, Array]:
    """Cosines with the nearest and third nearest log; `same`: the queries are the logs, and none is its own."""
    scores = queries @ logs.T
    if same:
        np.fill_diagonal(scores, -1)
    best = np.sort(scores, axis=1)
    return {"nearest": best[:, -1], "third": best[:, -3]}


def describe(queries: Array, logs: Array) -> dict[str, list[float]]:
    """Quantiles, at LEVELS, of all that a fit is held against."""
    pairs = (logs @ logs.T)[np.triu_indices(len(logs), 1)]
    half = logs[np.random.default_rng(0).permutation(len(logs))[: len(logs) // 2]]
    found = {
        **{f"log to {name} log": cosines for name, cosines in nearest(logs, logs, same=True).items()},
        **{f"log to {name} log, of half": cosines for name, cosines in nearest(half, half, same=True).items()},
        **{f"query to {name} log": cosines for name, cosines in nearest(queries, logs).items()},
        "any two logs": pairs,
    }
    return {name: np.quantile(cosines, LEVELS).round(4).tolist() for name, cosines in found.items()}


def difficulty(queries: Array, logs: Array) -> dict[str, float]:
    """Recall of the three nearest by searches that miss some of them: alike where logs are equally hard to search."""
    inner, count = faiss.METRIC_INNER_PRODUCT, round(len(logs) ** 0.5)
    flat, graph = faiss.IndexFlatIP(logs.shape[1]), faiss.IndexHNSWFlat(logs.shape[1], 16, inner)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(logs.shape[1]), logs.shape[1], count, inner)
    lists.cp.min_points_per_centroid = 1
    lists.train(logs)
    for index in (flat, graph, lists):
        index.add(logs)
    exact = flat.search(queries, 3)[1]

    def recall(index: faiss.Index, effort: faiss.SearchParameters) -> float:
        found = index.search(queries, 3, params=effort)[1]
        return round(float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])), 4)

    search: Any = faiss  # which declares neither class as it is
    graphs = {f"HNSW, M=16, efSearch={ef}": recall(graph, search.SearchParametersHNSW(efSearch=ef)) for ef in (16, 64)}
    shares = {f"IVF, 1/{n} of the lists": search.SearchParametersIVF(nprobe=max(1, count // n)) for n in (8, 2)}
    return {**graphs, **{name: recall(lists, effort) for name, effort in shares.items()}}


def fit(queries: Array, logs: Array) -> Shape:
    """Mean and spectrum as they are; of the near neighbours, what makes the quantiles most alike."""
    values, vectors = np.linalg.eigh(np.cov(logs.T))
    directions, means = vectors[:, ::-1], (logs.mean(axis=0), queries.mean(axis=0))
    spectrum, mean, query_mean = _before_scaling(values[::-1].clip(1e-9), *(m @ directions for m in means))
    # Of the cosines with the nearest and the third nearest, at many levels.
    levels = np.linspace(0.02, 0.98, 49)

    def gap(wanted: dict[str, Array], found: dict[str, Array]) -> float:
        return sum(np.abs(np.quantile(wanted[k], levels) - np.quantile(found[k], levels)).mean() for k in wanted)

    def shape(kin: Kin, asked: Kin) -> Shape:
        values, mid, query_mid = (tuple(numbers.tolist()) for numbers in (spectrum, mean, query_mean))
        return Shape(values, mid, query_mid, kin, asked)

    none = Kin(0, 1, 1)
    among = nearest(logs, logs, same=True)

    def logs_gap(kin: Kin) -> float:
        drawn = [Embeddings(shape(kin, none), len(logs), seed).logs for seed in range(3)]
        return float(np.mean([gap(among, nearest(rows, rows, same=True)) for rows in drawn]))

    kin = _search(logs_gap)
    made = Embeddings(shape(kin, none), len(logs))
    asked = nearest(queries, logs)

    def queries_gap(kin_of_queries: Kin) -> float:
        made._shape = shape(kin, kin_of_queries)
        return gap(asked, nearest(made.queries(2000), made.logs))

    return shape(kin, _search(queries_gap))


def _before_scaling(*wanted: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Spectrum, mean and the queries' mean of normal draws that have the `wanted` ones once scaled to length 1."""
    drawn = np.random.default_rng(0).standard_normal((20_000, len(wanted[0])))
    spectrum, *means = wanted
    for _ in range(20):
        made = [mean + np.sqrt(spectrum) * drawn for mean in means]
        rows, asked = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in made)
        means = [m + want - got.mean(axis=0) for m, want, got in zip(means, wanted[1:], (rows, asked), strict=True)]
        spectrum = spectrum * wanted[0] / rows.var(axis=0)
    return [spectrum, *means]


def _search(loss: Callable[[Kin], float]) -> Kin:
    def kin(point: NDArray[np.float64]) -> Kin:
        related, alpha, beta = 1 / (1 + np.exp(-point[0])), *np.exp(point[1:])
        return Kin(round(float(related), 4), round(float(alpha), 4), round(float(beta), 4))

    tried = [minimize(lambda p: loss(kin(p)), start, method="Nelder-Mead", options={"maxfev": 80, "xatol": 0.01})
             for start in ([1.0, 1.0, 0.5], [0.0, 0.5, 0.5])]  # fmt: skip
    return kin(min(tried, key=lambda found: found.fun).x)


def real(folders: Sequence[Path]) -> tuple[Array, Array]:
    """Embeddings (queries, logs) of data folders: unseen questions; seen ones and their steps, with answers."""
    embedder = load_embedder("minilm")
    keys, asked = [], []
    for folder in folders:
        dataset = data.load(folder)
        asked += [question.text for question in dataset.unseen]
        for question in dataset.seen:
            steps = [(question.text, question.answers[0]), *((hop.question, hop.answer) for hop in question.hops)]
            keys += [f"{text}\nSo the answer is <ans>{answer}</ans>" for text, answer in steps]
    return embedder.queries(asked), embedder.documents(list(dict.fromkeys(keys)))


def main() -> None:
    """Fit to real data, and write the fit beside what tells how good it is."""
    parser = argparse.ArgumentParser(prog="benchmarks.embeddings", description="Fit made-up embeddings to real ones.")
    parser.add_argument("folders", nargs="+", type=at, help="data folders (lagkit.datasets.loaders)")
    parser.add_argument("--out", type=at, default=FILE)
    args = parser.parse_args()
    queries, logs = real(args.folders)
    shape = fit(queries, logs)
    made = Embeddings(shape, len(logs), seed=7)
    quantiles = {"real": describe(queries, logs), "made up": describe(made.queries(2000), made.logs)}
    numbers = ("spectrum", "mean", "query_mean")
    rounded = {
        **asdict(shape),
        **{k: np.round(getattr(shape, k), 7).tolist() for k in numbers},
    }
    about = {"embedder": "minilm", "data": [folder.name for folder in args.folders], "logs": len(logs)}
    recalls = {"real": difficulty(queries, logs), "made up": difficulty(made.queries(2000), made.logs)}
    check = {**about, "queries": len(queries), "levels": LEVELS, "quantiles": quantiles, "recall": recalls}
    args.out.write_text(json.dumps({"shape": rounded, "check": check}) + "\n")
    for name, wanted in quantiles["real"].items():
        print(f"{name:32} real {wanted}  made up {quantiles['made up'][name]}")
    for name, wanted in recalls["real"].items():
        print(f"recall by {name:25} real {wanted}  made up {recalls['made up'][name]}")
    print(shape.logs, shape.queries)


if __name__ == "__main__":
    main()
