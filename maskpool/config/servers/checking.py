"""Say what servers make of a saved model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from maskpool.config.old_layout import as_old, obstacles
from maskpool.config.servers.rows import AT_STAKE, Aspect, Caller, Known, Row, Server, Verdict, pooled_as
from maskpool.config.servers.table import DEFAULT_SERVERS, SERVERS
from maskpool.config.statement import EmbeddingConfig
from maskpool.errors import InvalidValueError

# The names that servers give to the modes of sentence-transformers.
_SPELLINGS = {
    "last": "lasttoken",
    "last-token": "lasttoken",
    "last_token": "lasttoken",
    "eos": "lasttoken",
    "first_token": "cls",
    **{mode: mode for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")},
}
# What a server must compute for a conversion to be worth it; the rest is left to its caller.
_NEEDED = (*(Aspect.FILES, Aspect.LAYER, Aspect.POOLING, Aspect.PROMPT_TOKENS, Aspect.SPECIAL_TOKENS, Aspect.DENSE),)


@dataclass(frozen=True)
class ServerJudgement:
    """Say what a server makes of one aspect of a model.

    Attributes:
        aspect: The aspect.
        verdict: The verdict.
        computes: What the server computes instead.
        repair: The argument or file that repairs it.
        row: The fact it rests on; None if the table has none.
    """

    aspect: Aspect
    verdict: Verdict
    computes: str
    repair: str
    row: Row | None


@dataclass(frozen=True)
class VersionReport:
    """Say what some versions of a server make of a model.

    Attributes:
        versions: The versions, in words.
        judgements: What they make of each aspect, worst first.
    """

    versions: str
    judgements: tuple[ServerJudgement, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict."""
        return max((judgement.verdict for judgement in self.judgements), key=lambda verdict: verdict.rank)


@dataclass(frozen=True)
class ServerReport:
    """Say what a server makes of a model.

    Attributes:
        server: The server.
        versions: The reports of ranges of versions that differ.
    """

    server: Server
    versions: tuple[VersionReport, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict, or that it depends on the version."""
        verdicts = {report.verdict for report in self.versions}
        return verdicts.pop() if len(verdicts) == 1 else Verdict.DEPENDS

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "server": self.server.name,
            "verdict": self.verdict.value,
            "versions": [
                {
                    "versions": report.versions,
                    "verdict": report.verdict.value,
                    "aspects": [
                        {
                            "aspect": judgement.aspect.value,
                            "verdict": judgement.verdict.value,
                            "computes": judgement.computes,
                            "repair": judgement.repair,
                            "source": judgement.row.source if judgement.row else None,
                            "date": judgement.row.date if judgement.row else None,
                            "known": judgement.row.known.value if judgement.row else None,
                        }
                        for judgement in report.judgements
                    ],
                }
                for report in self.versions
            ],
        }

    def __str__(self) -> str:
        """Return the verdict, and a line for each aspect that is not the same or needs a word."""
        if len(self.versions) == 1:
            (report,) = self.versions
            title = f"{self.server.title} {report.versions}".rstrip()
            return "\n".join([f"{title}: {self.verdict.value}", *_lines(report, "  ")])
        lines = [f"{self.server.title}: {self.verdict.value}"]
        for report in self.versions:
            lines += [f"  {report.versions}: {report.verdict.value}", *_lines(report, "    ")]
        return "\n".join(lines)


def _lines(report: VersionReport, indent: str) -> list[str]:
    lines = []
    for judgement in report.judgements:
        if judgement.verdict is Verdict.SAME and not judgement.computes:
            continue
        known = "" if judgement.row is None else f" ({judgement.row.known.value})"
        words = f": {judgement.computes}" if judgement.computes else ""
        lines.append(f"{indent}{judgement.aspect.value}: {judgement.verdict.value}{words}{known}")
        lines += [f"{indent}  -> {judgement.repair}"] if judgement.repair else []
    return lines


def check_servers(
    config: EmbeddingConfig,
    servers: Sequence[str] = (),
    pooling: str | None = None,
    normalize: bool | None = None,
    pooler_config: dict[str, Any] | None = None,
) -> list[ServerReport]:
    """Say what servers make of a model.

    Args:
        config: What the model computes.
        servers: Names, each with or without ``==VERSION``; all by default.
        pooling: The pooling that the caller passes to servers that take one.
        normalize: Whether the caller asks for vectors of unit length where a server lets it choose.
        pooler_config: What the caller passes to vLLM as its pooler configuration.

    Raises:
        ValueError: An unknown server, version, pooling or pooler configuration; or a model that names no pooling.
    """
    if config.pooling.value is None:
        raise InvalidValueError(
            "model",
            f"must name a pooling, and has none ({config.pooling.source}): save it with sentence-transformers first",
        )
    caller = Caller(None if pooling is None else _canonical("pooling", pooling), normalize)
    of_vllm = _read_pooler_config(pooler_config or {})
    asked = [_find(name) for name in servers or DEFAULT_SERVERS]
    return [_check(server, version, config, of_vllm if server.name == "vllm" else caller) for server, version in asked]


def _read_pooler_config(content: dict[str, Any]) -> Caller:
    known = {"pooling_type", "seq_pooling_type", "use_activation"}
    unknown = sorted(set(content) - known)
    if unknown:
        raise InvalidValueError(
            "pooler_config", f"must hold only {', '.join(sorted(known))}, got {', '.join(map(repr, unknown))}"
        )
    names = [content[name] for name in ("pooling_type", "seq_pooling_type") if content.get(name) is not None]
    activation = content.get("use_activation")
    if not all(isinstance(name, str) for name in names) or not isinstance(activation, bool | None):
        raise InvalidValueError(
            "pooler_config", f"must have a string in pooling_type and a boolean in use_activation, got {content}"
        )
    return Caller(_canonical("pooler_config", names[0]) if names else None, activation)


def _canonical(argument: str, name: str) -> str:
    mode = _SPELLINGS.get(name.lower())
    if mode is None:
        raise InvalidValueError(argument, f"must be one of {', '.join(_SPELLINGS)}, got {name!r}")
    return mode


def _find(text: str) -> tuple[Server, Version | None]:
    name, equals, number = text.partition("==")
    server = SERVERS.get(name.strip())
    if server is None:
        raise InvalidValueError("servers", f"must be among {', '.join(SERVERS)}, got {name.strip()!r}")
    if not equals:
        return server, None
    if not server.newest:
        raise InvalidValueError("servers", f"must not give a version of {server.name}, whose rows hold for all: {text}")
    try:
        return server, Version(number.strip())
    except InvalidVersion:
        raise InvalidValueError("servers", f"must be a name with ==VERSION, such as vllm==0.23, got {text!r}") from None


def inexpressible(server: Server, config: EmbeddingConfig) -> list[ServerJudgement]:
    """Return what the newest version of a server computes otherwise than a model, no matter what its caller passes.

    Args:
        server: The server.
        config: The model, in the layout that servers read best.
    """
    judgements = _judge(server, Version(server.newest) if server.newest else None, config, Caller())
    return [
        judgement
        for judgement in judgements
        if judgement.aspect in _NEEDED and judgement.verdict in (Verdict.DIFFERENT, Verdict.FAILS)
    ]


def _check(server: Server, version: Version | None, config: EmbeddingConfig, caller: Caller) -> ServerReport:
    convert = not obstacles(config) and not inexpressible(server, as_old(config))
    if version is not None:
        outside = not Version(server.oldest) <= version <= _whole(server.newest, version)
        judgements = _judge(server, version, config, caller, convert)
        if outside:
            words = f"the table knows {server.oldest} to {server.newest}"
            judgements = (ServerJudgement(Aspect.FILES, Verdict.UNKNOWN, words, "", None),)
        return ServerReport(server, (VersionReport(str(version), judgements),))
    reports: list[tuple[Version | None, tuple[ServerJudgement, ...]]] = []
    for start in _starts(server):
        judgements = _judge(server, start, config, caller, convert)
        if not reports or _words(reports[-1][1]) != _words(judgements):
            reports.append((start, judgements))
    if len(reports) == 1:
        return ServerReport(server, (VersionReport("", reports[0][1]),))
    ranges = []
    for index, (start, judgements) in enumerate(reports):
        end = reports[index + 1][0] if index + 1 < len(reports) else None
        lower = f"{start} or newer" if index else ""
        ranges.append(VersionReport(", ".join(filter(None, [lower, f"before {end}" if end else ""])), judgements))
    return ServerReport(server, tuple(ranges))


def _words(judgements: Sequence[ServerJudgement]) -> list[tuple[str, ...]]:
    return [(item.aspect, item.verdict, item.computes, item.repair) for item in judgements]


def _whole(newest: str, version: Version) -> Version:
    """Return the newest version, or the given one if it names only the first parts of the newest."""
    newest_version = Version(newest)
    parts = len(version.release)
    return version if version.release == newest_version.release[:parts] else newest_version


def _starts(server: Server) -> list[Version | None]:
    """Return the versions at which a row begins or ends, oldest first."""
    if not server.newest:
        return [None]
    specifiers: list[Specifier] = [specifier for row in server.rows for specifier in SpecifierSet(row.versions)]
    numbers = {Version(specifier.version) for specifier in specifiers} - {Version(server.oldest)}
    return [Version(server.oldest), *sorted(numbers)]


def _judge(
    server: Server, version: Version | None, config: EmbeddingConfig, caller: Caller, convert: bool = False
) -> tuple[ServerJudgement, ...]:
    """Judge each aspect by the first row that fits; ``convert`` says whether the model's files can be converted."""
    judgements = []
    for aspect in Aspect:
        if aspect in AT_STAKE and not AT_STAKE[aspect](config):
            continue
        row = next((row for row in server.rows if _fits(row, aspect, version, config, caller)), None)
        judgements.append(_from_row(server, aspect, row, config, caller, convert))
        # Nothing is said about a model that is not loaded, or whose files no one has tried.
        if judgements[-1].verdict is Verdict.FAILS or (aspect is Aspect.FILES and row is None):
            return (judgements[-1],)
    return tuple(sorted(judgements, key=lambda judgement: -judgement.verdict.rank))


def _fits(row: Row, aspect: Aspect, version: Version | None, config: EmbeddingConfig, caller: Caller) -> bool:
    return (
        row.aspect is aspect
        and (version is None or version in SpecifierSet(row.versions, prereleases=True))
        and all(condition.holds(config, caller) for condition in row.when)
    )


def _from_row(
    server: Server, aspect: Aspect, row: Row | None, config: EmbeddingConfig, caller: Caller, convert: bool
) -> ServerJudgement:
    if row is None:
        return ServerJudgement(aspect, Verdict.UNKNOWN, "no one has read or run it", "", None)
    if row.verdict is Verdict.SAME and row.known is Known.INFERRED:
        return ServerJudgement(aspect, Verdict.UNKNOWN, "inferred only", "", row)
    modes = pooled_as(config)
    unit = bool(config.normalize.value)
    words = {
        "server": server.name,
        "modes": " + ".join(config.pooling.value or ()),
        "name": server.poolings.get(modes[0], "") if len(modes) == 1 else "",
        "given": caller.pooling,
        "dense": ", ".join(config.dense.value),
        "length": config.max_length.value,
        "dimensions": config.truncate_dim.value,
        "prompt": config.default_prompt.value,
        "normalize": unit,
        "javascript": str(unit).lower(),
    }
    repair = row.repairs(convert)
    unnamed = "{name}" in repair and not words["name"]
    repair = "" if unnamed else repair.replace("`", "").format(**words)
    return ServerJudgement(aspect, row.verdict, row.computes.format(**words), repair, row)
