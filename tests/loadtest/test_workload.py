"""What is asked: a pure function of the seed and the number, with the popularity and the lengths that were chosen."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from loadtest.question_file import HANDBOOK, read_questions
from loadtest.workload import UPLOADS, Options, Workload, mix
from serving.errors import ConfigurationError

EVERYTHING = Options(
    mix="stream=4,ask=2,turn=2,search=1,upload=1",
    zipf=1.1,
    prompt_tokens="lognormal:300,0.5",
    answer_tokens="uniform:32-256",
    collections=("default", "other"),
    cold_collections=("cold-1", "cold-2"),
    cold_share=0.2,
    seed=7,
)


def words(text: str) -> int:
    """Words and marks: what the tokenizers of today's models count of frequent English words."""
    return len(text.split()) + sum(text.count(mark) for mark in ",.")


def written(tmp_path: Path, *lines: object) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return file


def test_a_number_always_asks_the_same() -> None:
    """In whatever order, by whatever worker, asked once or twice."""
    first, second = Workload.read(EVERYTHING), Workload.read(EVERYTHING)
    numbers = list(range(500))
    asked = [first.ask(number) for number in numbers]
    random.Random(1).shuffle(numbers)
    assert all(second.ask(number) == asked[number] for number in [*numbers, *numbers])
    assert [one.number for one in asked] == list(range(500))


def test_another_process_asks_the_same() -> None:
    """Nothing hangs on Python's own hashes, which differ by process."""
    script = "from tests.loadtest.test_workload import *; print([Workload.read(EVERYTHING).ask(n) for n in range(40)])"
    process = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    workload = Workload.read(EVERYTHING)
    assert process.stdout.strip() == str([workload.ask(number) for number in range(40)])


def test_another_seed_asks_other_things() -> None:
    """Other questions, other lengths, other favourites."""
    one, other = Workload.read(EVERYTHING), Workload.read(replace(EVERYTHING, seed=8))
    assert sum(one.ask(number) == other.ask(number) for number in range(200)) == 0


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.5])
def test_popularity_follows_zipf(exponent: float) -> None:
    """The k-th most popular question is asked in proportion to 1 / k^s; without an exponent all alike."""
    workload = Workload.read(Options(zipf=exponent))
    asked = Counter(workload.ask(number).question for number in range(40_000))
    weights = [rank**-exponent for rank in range(1, len(workload.questions) + 1)]
    for (_, count), weight in zip(asked.most_common(8) if exponent else [], weights, strict=False):
        assert count == pytest.approx(40_000 * weight / sum(weights), rel=0.15)
    if not exponent:
        assert len(asked) == len(workload.questions)
        assert max(asked.values()) < 1.4 * min(asked.values())


def test_favourites_are_not_those_that_stand_first() -> None:
    """Which questions are popular is drawn by the seed."""
    favourites = set()
    for seed in range(20):
        workload = Workload.read(Options(zipf=2.0, seed=seed))
        favourites.add(Counter(workload.ask(number).question for number in range(300)).most_common(1)[0][0])
    assert len(favourites) > 10


def test_tasks_come_in_the_proportions_of_the_mix() -> None:
    """To within four standard errors."""
    workload, count = Workload.read(EVERYTHING), 10_000
    tasks = Counter(workload.ask(number).task for number in range(count))
    for task, weight in mix(EVERYTHING.mix).items():
        share = weight / 10
        assert tasks[task] == pytest.approx(count * share, abs=4 * (count * share * (1 - share)) ** 0.5)


def test_cold_collections_get_their_share() -> None:
    """The others go to the usual collections; uploads to one of their own."""
    workload = Workload.read(EVERYTHING)
    asked = [one for one in map(workload.ask, range(10_000)) if one.task != "upload"]
    cold = [one.collection for one in asked if one.cold_collection]
    assert len(cold) / len(asked) == pytest.approx(0.2, abs=0.02)
    assert set(cold) == {"cold-1", "cold-2"}
    assert {one.collection for one in asked if not one.cold_collection} == {"default", "other"}
    assert Workload.read(Options()).ask(1).collection is None


def test_answer_lengths_follow_their_distribution() -> None:
    """A number, a range, a log-normal with its median, its spread and its end."""

    def drawn(spec: str) -> list[int]:
        workload = Workload.read(Options(answer_tokens=spec))
        return [workload.ask(number).max_tokens or 0 for number in range(4000)]

    assert set(drawn("64")) == {64}
    assert set(drawn("")) == {256}
    even = drawn("uniform:10-19")
    assert sorted(set(even)) == list(range(10, 20))
    assert statistics.mean(even) == pytest.approx(14.5, abs=0.3)
    skewed = drawn("lognormal:128,0.5")
    assert statistics.median(skewed) == pytest.approx(128, rel=0.05)
    assert statistics.quantiles(skewed, n=100)[83] == pytest.approx(128 * 2.718**0.5, rel=0.1)
    assert max(drawn("lognormal:10,4")) == 80


def test_prompts_are_lengthened_before_the_question_and_never_shortened() -> None:
    """By text that differs from question to question, as many tokens as wanted."""
    workload = Workload.read(Options(prompt_tokens="400"))
    prefaces = {one.question: one for one in map(workload.ask, range(300))}
    assert len({one.preface for one in prefaces.values()}) == len(prefaces)
    for one in prefaces.values():
        assert words(one.preface) + len(one.text) / 4 == pytest.approx(400, abs=4)
        assert one.text == workload.questions[one.question or 0].text
        assert [message["role"] for message in one.messages()] == ["system", "user"]
        (plain,) = one.messages(plain=True)
        assert plain == {"role": "user", "content": f"{one.preface}\n\n{one.text}"}
    short = Workload.read(Options(prompt_tokens="1")).ask(0)
    assert short.messages() == [{"role": "user", "content": short.text}]


def test_a_prompt_may_be_longer_than_the_text_there_is() -> None:
    """Then that begins again."""
    assert words(Workload.read(Options(prompt_tokens="100000")).ask(3).preface) == pytest.approx(100_000, rel=0.01)


def test_a_question_that_comes_again_has_the_same_prompt() -> None:
    """So that an engine's prefix cache serves it, as in real use; a line that stands twice is the same question."""
    workload = Workload.read(Options(prompt_tokens="lognormal:100,0.8"))
    prompts: dict[str, set[str]] = {}
    for one in map(workload.ask, range(1000)):
        prompts.setdefault(one.text, set()).add(json.dumps(one.messages()))
    assert all(len(same) == 1 for same in prompts.values())


def test_unique_prompts_differ_from_their_first_words_on() -> None:
    """Prefix caches match from the start; and two runs with different salts share nothing either."""
    options = Options(unique=True, zipf=1.0, prompt_tokens="200", salt="monday")
    monday, tuesday = Workload.read(options), Workload.read(replace(options, salt="tuesday"))
    asked = [workload.ask(number) for workload in (monday, tuesday) for number in range(500)]
    assert len({one.messages()[0]["content"][:22] for one in asked}) == 1000
    assert all(one.text == monday.questions[one.question or 0].text for one in asked)
    assert all(words(one.preface) + len(one.text) / 4 == pytest.approx(200, abs=12) for one in asked)
    assert [one.question for one in asked[:500]] == [one.question for one in asked[500:]]
    assert [monday.salted("tuesday").ask(number) for number in range(500)] == asked[500:]
    bare = Workload.read(Options(unique=True)).ask(4).messages(plain=True)[0]["content"]
    assert bare.startswith("Reference ")


def test_searches_can_be_unique_too() -> None:
    """They have no prompt: the query itself differs, at its end."""
    workload = Workload.read(Options(unique=True, mix="search"))
    queries = [workload.ask(number) for number in range(300)]
    assert len({one.text for one in queries}) == 300
    assert all(one.text.startswith(workload.questions[one.question or 0].text) for one in queries)
    assert not any(one.preface for one in queries)


def test_conversations_have_their_own_follow_ups_and_as_many_turns() -> None:
    """What is missing is filled up by other questions; each turn knows its own sources."""
    workload = Workload.read(Options(mix="turn", turns=4))
    known = {turn.text: turn for question in workload.questions for turn in question.turns}
    for one in map(workload.ask, range(200)):
        own = workload.questions[one.question or 0].turns
        assert own
        assert len(one.turns) == 3
        assert [turn.text for turn in one.turns[: len(own)]] == [turn.text for turn in own]
        assert all(turn.sources == known[turn.text].sources for turn in one.turns[: len(own)])
        assert {turn.task for turn in one.turns} == {"turn"}
    assert not Workload.read(Options(mix="turn", turns=1)).ask(0).turns


def test_conversations_need_no_follow_ups_in_the_file(tmp_path: Path) -> None:
    """Other questions follow."""
    file = written(tmp_path, {"question": "What is one?"}, {"question": "What is two?"})
    one = Workload.read(Options(questions=file, mix="turn")).ask(0)
    assert {turn.text for turn in one.turns} <= {"What is one?", "What is two?"}
    assert len(one.turns) == 2


def test_uploads_are_small_and_distinct_in_a_collection_of_their_own() -> None:
    """Also from run to run: an unchanged document would cost the server nothing."""
    days = [Workload.read(Options(mix="upload", salt=salt)) for salt in ("monday", "tuesday")]
    asked = [day.ask(number) for day in days for number in range(200)]
    assert len({one.uri for one in asked}) == len({one.text for one in asked}) == 400
    assert {one.collection for one in asked} == {UPLOADS}
    assert all(one.title and one.question is None and 50 < words(one.text) < 220 for one in asked)


def test_a_trace_gives_the_lengths_that_the_options_do_not() -> None:
    """By number, from the beginning again when it is over."""
    trace = [(100, 10), (200, 20), (300, 30)]
    workload = Workload.read(Options(), trace)
    for number in range(9):
        one = workload.ask(number)
        prompt, answer = trace[number % 3]
        assert one.max_tokens == answer
        assert words(one.preface) + len(one.text) / 4 == pytest.approx(prompt, abs=4)
    chosen = Workload.read(Options(prompt_tokens="50", answer_tokens="5"), trace).ask(2)
    assert chosen.max_tokens == 5
    assert words(chosen.preface) < 60


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mix": ""}, "none of stream, ask, turn, search, upload"),
        ({"mix": "strem=1"}, "--mix 'strem=1': 'strem'"),
        ({"mix": "ask=x"}, "--mix 'ask=x': 'x'"),
        ({"mix": "ask=1,ask=2"}, "twice"),
        ({"mix": "ask=0,stream=0"}, "--mix"),
        ({"mix": "ask=-1,stream=2"}, "--mix"),
        ({"zipf": -0.1}, "--zipf"),
        ({"zipf": float("nan")}, "--zipf"),
        ({"turns": 0}, "--turns"),
        ({"cold_share": 1.5}, "--cold-share"),
        ({"cold_share": 0.5}, "--cold-collections"),
        ({"cold_collections": ("a",)}, "--cold-share"),
        ({"prompt_tokens": "long"}, "--prompt-tokens 'long'"),
        ({"prompt_tokens": "0"}, "--prompt-tokens '0'"),
        ({"prompt_tokens": "normal:3,1"}, "--prompt-tokens 'normal:3,1'"),
        ({"answer_tokens": "uniform:9-3"}, "3 is less than 9"),
        ({"answer_tokens": "uniform:9"}, "--answer-tokens 'uniform:9'"),
        ({"answer_tokens": "lognormal:9"}, "median"),
        ({"answer_tokens": "lognormal:9,x"}, "sigma 'x'"),
        ({"questions": Path("no-such-file.jsonl")}, "no-such-file.jsonl cannot be read"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, object], named: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigurationError) as refused:
        Workload.read(Options(**{**vars(Options()), **wrong}))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "line 2"),
        ('{"question": "\\ud800"}', "surrogates not allowed"),
        ("3", "an object"),
        ('{"query": "What?"}', '"question"'),
        ('{"question": " "}', '"question"'),
        ('{"question": "What?", "source": ["a.md"]}', "'source' not known here"),
        ('{"question": "What?", "sources": "a.md"}', "sources should be a list"),
        ('{"question": "What?", "answers": [3]}', "answers should be a list"),
        ('{"question": "What?", "sources": ["a.md"], "enough": 2}', "enough is 2"),
        ('{"question": "What?", "enough": 1}', "enough is 1"),
        ('{"question": "What?", "turns": "And?"}', "turns should be a list"),
        ('{"question": "What?", "turns": [{"question": "And?", "turns": []}]}', "'turns' not known here"),
    ],
)
def test_a_wrong_line_of_the_questions_is_named(tmp_path: Path, line: str, named: str) -> None:
    """With the file and its number."""
    file = written(tmp_path, {"question": "What is right?"}, line)
    with pytest.raises(ConfigurationError) as refused:
        read_questions(file)
    assert str(refused.value).startswith(f"questions {file}, line 2")
    assert named in str(refused.value)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    """Blank lines are none."""
    with pytest.raises(ConfigurationError, match="there are none"):
        read_questions(written(tmp_path, "", "  "))


def test_questions_are_read_as_editors_write_them(tmp_path: Path) -> None:
    """With a byte order mark, Windows line ends, blank lines and line separators within a text."""
    file = tmp_path / "questions.jsonl"
    file.write_bytes('\ufeff{"question": "Wo?"}\r\n\r\n{"question": "Was\u2028nun?", "turns": ["Und?"]}\r\n'.encode())
    first, second = read_questions(file)
    assert (first.text, second.text, second.turns[0].text) == ("Wo?", "Was\u2028nun?", "Und?")


def test_the_shipped_questions_are_many_and_varied() -> None:
    """Keywords and sentences, with conversations among them."""
    questions = read_questions(HANDBOOK)
    lengths = [len(question.text.split()) for question in questions]
    assert len({question.text for question in questions}) == len(questions) >= 60
    assert sum(bool(question.turns) for question in questions) >= 10
    assert min(lengths) <= 3
    assert max(lengths) >= 18


def test_options_can_be_kept() -> None:
    """They go into the result of a run."""
    assert json.loads(json.dumps(asdict(EVERYTHING), default=str))["mix"] == EVERYTHING.mix
