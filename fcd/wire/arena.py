"""What the arena's routes say and take: battles, votes, the leaderboard.

A blind battle's `BattleInfo` holds no name, speed, token count, finish reason or flag until its vote is final. A vote
is on disk when it is acknowledged. It can be taken back for a few seconds, unless the reveal was asked for before: the
reveal makes it final at once. Until it is final it counts on no board and is in no list, because those would tell.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Side = Literal["a", "b"]
Outcome = Literal["a", "b", "tie", "both_bad", "skip"]
Mode = Literal["blind", "named"]
Pairing = Literal["uniform", "weighted", "fewest_votes", "most_informative"]
Method = Literal["bradley_terry", "elo"]
Intervals = Literal["sandwich", "bootstrap", "none"]
AnswerState = Literal["waiting", "writing", "done", "stopped", "failed"]
VoteSource = Literal["people", "judge", "import", "all"]
ExportFormat = Literal["preferences", "sft", "fastchat", "battles", "csv", "json"]
ImportFormat = Literal["auto", "fastchat", "battles", "json"]


class Sampling(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """How both sides write, always alike."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 1024
    """At most; less where a model's context is smaller, and then for both sides."""
    seed: int | None = None


class BattleRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """POST /api/battles."""

    mode: Mode = "blind"
    models: list[str] = []
    """Named: exactly two, side a and side b. Blind: the pool to draw from; empty is every model that can answer."""
    pool: str = ""
    """A tag of `arena.pools` in the settings, instead of `models`."""
    pairing: Pairing | None = None
    """How the two are drawn; None is the setting `arena.pairing`."""
    system: str = ""
    sampling: Sampling = msgspec.field(default_factory=Sampling)
    prompt: str = ""
    """Given: the first turn begins at once; attach to it with GET /api/battles/{id}/events."""
    voter: str = ""
    """Who is voting, where several people share one key; it never replaces the key's own id."""


class TurnRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/battles/{id}/turns."""

    prompt: str


class VoteRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """POST /api/battles/{id}/vote."""

    outcome: Outcome
    reveal: bool = False
    """Make it final and answer with the names at once: no undo."""


class AnswerStats(msgspec.Struct, omit_defaults=True):
    """Numbers about one answer; only in battles that are final or named."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float = 0.0
    tokens_per_second: float = 0.0
    finish_reason: str = ""


class Answer(msgspec.Struct, omit_defaults=True):
    """One side of one turn, as far as it may be seen."""

    text: str = ""
    state: AnswerState = "waiting"
    error: str = ""
    """Blind: one sentence that is the same for every model and fault."""
    stats: AnswerStats | None = None


class Turn(msgspec.Struct):
    prompt: str
    a: Answer
    b: Answer


class RatingChange(msgspec.Struct):
    """What one vote did to a model on the default board."""

    model: str
    before: float
    after: float
    margin: float
    """Half the width of the 95 % interval afterwards."""


class BattleInfo(msgspec.Struct, omit_defaults=True):
    """A battle as its voter may see it now."""

    id: str
    mode: Mode
    created_at: float
    turns: list[Turn] = []
    running: bool = False
    """A side is still writing."""
    vote: Outcome | None = None
    voted_at: float = 0.0
    undo_until: float = 0.0
    """Unix time until which the vote can be taken back; 0 when it cannot be."""
    final: bool = False
    """The vote cannot be changed any more; only then are the fields below filled (names also in named battles)."""
    model_a: str = ""
    model_b: str = ""
    flags: list[str] = []
    """Why it does not count: `identity` (an answer named its model), `failed` (an answer broke off), `named`."""
    rated: bool = False
    """It counts on the default board."""
    ratings: list[RatingChange] = []


class BattleList(msgspec.Struct):
    battles: list[BattleInfo]


class BattleEvent(msgspec.Struct, omit_defaults=True):
    """One SSE `data:` line of a battle's stream; `event:` carries the same word as `type`.

    First `battle` (everything up to now), then `delta`s; `done` or `failed` for each side; `end` when both sides are.
    `battle` comes again when a turn is added or regenerated, and when a vote ends it: then the stream ends.
    """

    type: Literal["battle", "delta", "done", "failed", "end"]
    battle: BattleInfo | None = None
    turn: int = 0
    """Number of the turn, from 0."""
    side: Side | None = None
    text: str = ""
    """What is appended to that side's answer."""
    error: str = ""


class LeaderboardQuery(msgspec.Struct, omit_defaults=True):
    """The query parameters of GET /api/leaderboard, /api/votes and /api/head-to-head."""

    method: Method = "bradley_terry"
    intervals: Intervals = "sandwich"
    rounds: int = 1000
    """Of the bootstrap."""
    source: VoteSource = "people"
    """`people` are votes given here or imported; `judge` only those of judge models; `import` only imported ones."""
    named: bool = False
    """Count battles whose models were known to the voter too."""
    flagged: bool = False
    """Count battles that were flagged too."""
    since: float = 0.0
    until: float = 0.0
    """Unix times; 0 is open."""
    min_tokens: int = 0
    max_tokens: int = 0
    """Of both answers together; 0 is open."""
    language: str = ""
    models: list[str] = []
    """Only battles between these."""
    tag: str = ""
    """Only battles of this pool."""
    voter: str = ""
    style_control: bool = False


class BoardRow(msgspec.Struct):
    """One model on the leaderboard."""

    rank: int
    """1 + the number of models whose lower bound is above this one's upper bound."""
    model: str
    rating: float
    lower: float
    upper: float
    """95 % interval; equal to the rating where none was asked for."""
    votes: int
    wins: int
    losses: int
    ties: int
    win_rate: float
    """Ties are half a win."""


class StyleEffect(msgspec.Struct):
    """What a feature of style is worth to voters, in rating points per standard deviation of the difference."""

    feature: str
    points: float
    lower: float
    upper: float


class Leaderboard(msgspec.Struct):
    rows: list[BoardRow]
    votes: int
    """Counted on this board."""
    left_out: int
    """Votes that the filters left out."""
    method: Method
    intervals: Intervals
    style: list[StyleEffect] = []
    at: float = 0.0


class HeadToHead(msgspec.Struct):
    """Row i against column j, models in board order."""

    models: list[str]
    battles: list[list[int]]
    wins: list[list[float]]
    """Ties are half."""
    win_rate: list[list[float | None]]
    predicted: list[list[float]]
    """From the ratings: the probability that row beats column."""


class VoteRecord(msgspec.Struct, omit_defaults=True):
    """One final vote."""

    battle: str
    at: float
    model_a: str
    model_b: str
    outcome: Outcome
    voter: str
    source: Literal["person", "judge", "import"]
    mode: Mode
    turns: int
    language: str = ""
    tag: str = ""
    flags: list[str] = []
    tokens_a: int = 0
    tokens_b: int = 0
    prompt: str = ""
    """The first turn's, shortened."""
    judge: str = ""


class VoteList(msgspec.Struct):
    votes: list[VoteRecord]
    total: int


class PairInfo(msgspec.Struct):
    """How often two models have met, and what one more vote between them would teach."""

    model_a: str
    model_b: str
    battles: int
    gain: float
    """Expected fall of the board's summed rating variance by one vote, in points squared."""


class PairList(msgspec.Struct):
    pairs: list[PairInfo]


class VoterInfo(msgspec.Struct):
    """One voter's votes against everybody else's."""

    voter: str
    votes: int
    agreement: float
    """Share of decisive votes for the model that the others rate higher."""
    expected: float
    """What that share would be for a voter like the others."""
    p_value: float
    outlier: bool
    last_at: float = 0.0


class VoterList(msgspec.Struct):
    voters: list[VoterInfo]


class ImportReport(msgspec.Struct):
    """What an import did."""

    added: int
    duplicates: int
    refused: int
    reasons: dict[str, int] = {}


class JudgedPair(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """POST /api/judgments: one judged pair of answers, stored as a battle with a judge's vote."""

    model_a: str
    model_b: str
    conversation_a: list[dict[str, Any]]
    conversation_b: list[dict[str, Any]]
    outcome: Outcome
    judge: str
    verdicts: list[Outcome] = []
    """In the first order and in the second, both told from the first order's sides."""
    question: str = ""
    reference: str = ""


class Agreement(msgspec.Struct):
    """How often judge and people say the same of the same pair of models on the same prompt."""

    judge: str
    compared: int
    agreed: float
    rate: float
    lower: float
    upper: float
    """95 % Wilson interval."""
