#!/usr/bin/env python3
"""What Python models can do wrong, and what can be done to their processes, on the built `jitney` with real signals. The guilty request
pays, and nobody else: after each check the server is as well as it was before.

Each group of checks has a server of its own, and the groups run side by side, since most of their time is spent waiting. Words on the
command line choose the checks whose names contain one of them.
"""

import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from watch import (
    START_S,
    Client,
    Watched,
    Wellness,
    expect,
    expect_value,
    finish,
    promptly,
    request,
    took,
    wait_for,
)

GROUPS = []
# Numbers of items are never used twice, so that the ledger of a run tells them apart.
IDS = itertools.count(1)
AT_ONCE = 6
CLIENTS = 24
SHARED_MEMORY = Path("/dev/shm")


def group(*classes, **options):
    """A group of checks, each of which is given the server that all of them share."""

    def add(checks):
        GROUPS.append((checks.__name__, classes, options, checks))
        return checks

    return add


def fresh(count, **what):
    return [{"id": next(IDS), **what} for _ in range(count)]


def one_guilty(count=8, at=3, **what):
    """Items of which one is guilty."""
    items = fresh(count)
    items[at].update(what)
    return items


def expect_one_guilty(items, answers, status, code, words="", at=3):
    for place, (item, answer) in enumerate(zip(items, answers)):
        if place == at:
            expect(answer, status, code, words)
        else:
            expect_value(answer, item)


# Crashes.


@group("Faulty", "OneByOne", "Waiting")
def crashes(served):
    def idle_worker_killed():
        """F01."""
        before = served.metrics().sum("jitney_restarted_workers_total", model="faulty")
        served.kill_worker("faulty")
        expect_value(served.run("faulty", item := {"id": next(IDS)}), item)
        assert served.metrics().sum("jitney_restarted_workers_total", model="faulty") == before + 1

    def one_of_eight(fault):
        """F02: also for the classes whose items are run one at a time, and those whose calls overlap."""
        for model in ("faulty", "onebyone", "waiting"):
            items = one_guilty(do=fault)
            begun = time.monotonic()
            answers = served.together(model, items, IDS)
            assert time.monotonic() - begun < START_S
            expect_one_guilty(items, answers, 500, "worker_crashed", "died while it computed")
            assert served.runs()[items[3]["id"]] <= 2, "the guilty item was run more than twice"
            runs = served.runs()
            assert all(1 <= runs[item["id"]] <= 3 for item in items), runs

    def quarantine():
        item = {"id": next(IDS), "do": "exit"}
        expect(served.run("faulty", item), 500, "worker_crashed")
        wait_for(lambda: served.workers("faulty"), START_S)
        workers, ran = served.workers("faulty"), served.runs()[item["id"]]
        before = served.metrics().sum("jitney_quarantined_items_total", model="faulty")
        answer = served.run("faulty", item)
        expect(answer, 500, "worker_crashed", "was not run")
        assert answer.took_s < 1, answer.took_s
        # One death may have been somebody else's fault: it takes two.
        assert served.runs()[item["id"]] == ran == 2, "an item in quarantine was run"
        assert served.workers("faulty") == workers
        assert served.metrics().sum("jitney_quarantined_items_total", model="faulty") == before + 1
        expect_value(served.run("faulty", other := {"id": next(IDS), "do": "not"}), other)

    def daemon_dies_with_its_worker():
        expect_value(served.run("faulty", item := {"id": next(IDS), "do": "daemon"}), item)
        wait_for(lambda: len(served.noted("daemon")) == 1, START_S)
        daemon = int(served.noted("daemon")[0])
        assert daemon in served.marked()
        served.kill_worker("faulty")
        wait_for(lambda: daemon not in served.marked(), 5, lambda: "a grandchild is left")

    yield idle_worker_killed
    for fault in ("kill", "exit", "segfault"):
        yield f"one of eight items: {fault}", lambda fault=fault: one_of_eight(fault)
    yield quarantine
    yield daemon_dies_with_its_worker


@group("Faulty", "Once", flags={"--instances": "2"})
def two_workers(served):
    def one_of_eight_kills_its_worker():
        """F02, with requests of others all the while."""
        wait_for(lambda: len(served.workers("faulty")) == 2, START_S)
        others, over = [], threading.Event()

        def ask():
            while not over.is_set():
                item = {"id": next(IDS)}
                others.append((item, served.run("faulty", item)))
                time.sleep(0.01)

        items = one_guilty(do="kill")
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            answers = [finish(client) for client in [served.begin("faulty", item) for item in items]]
        finally:
            over.set()
            asking.join()
        expect_one_guilty(items, answers, 500, "worker_crashed")
        assert served.runs()[items[3]["id"]] <= 2
        assert others
        for item, answer in others:
            expect_value(answer, item)

    def killed_in_a_batch(model, again):
        """F03: a worker is killed from outside while it runs several items."""
        wait_for(lambda: len(served.workers(model)) == 2, START_S)
        items = [{"id": next(IDS), "do": "gate", "gate": f"{model}-go"} for _ in range(8)]
        held, sent = served.send_behind(model, items, IDS)
        served.release(held)
        wait_for(lambda: all(served.runs()[item["id"]] == 1 for item in items), START_S)
        killed = served.worker_that_ran(items[0])
        hit = [served.worker_that_ran(item) == killed for item in items]
        assert sum(hit) >= 2, "they were not run together"
        os.kill(killed, signal.SIGKILL)
        at = time.monotonic()
        if not again:
            for was, client in zip(hit, sent):
                if was:
                    expect(finish(client), 503, "failed", "died")
            assert time.monotonic() - at < 1, "they were not told at once"
        served.open(f"{model}-go")
        for was, item, client in zip(hit, items, sent):
            if again or not was:
                expect_value(finish(client), item)
        runs = served.runs()
        assert [runs[item["id"]] for item in items] == [1 + (was and again) for was in hit], runs

    yield one_of_eight_kills_its_worker
    yield "killed in a batch, may be run again", lambda: killed_in_a_batch("faulty", again=True)
    yield "killed in a batch, must not be run again", lambda: killed_in_a_batch("once", again=False)


@group("Faulty", flags={"--run-limit-ms": "40"})
def small_limit(served):
    def restarts_take_longer_than_a_run_may():
        """Waiting for a worker is not running: whoever has time gets an answer."""
        for _ in range(3):
            items = one_guilty(do="kill")
            answers = [finish(client) for client in [served.begin("faulty", item) for item in items]]
            for at, (item, answer) in enumerate(zip(items, answers)):
                # On a machine that is busy with something else even a run of nothing may last longer than so short a limit.
                if at != 3 and answer.status != 504:
                    expect_value(answer, item)
            assert answers[3].status in (500, 504), answers[3].body

    yield restarts_take_longer_than_a_run_may


# Hangs.


@group("Faulty", "OneByOne", "Waiting", "Once", flags={"--run-limit-ms": "2000"})
def hangs(served):
    def alone(fault):
        """F07, and its like: the offender is told in time, and the worker is replaced."""
        worker = served.workers("faulty")
        answer = served.run("faulty", {"id": next(IDS), "do": fault})
        expect(answer, 504, "deadline_exceeded", "limit")
        assert 2 <= answer.took_s < 4, answer.took_s
        wait_for(lambda: served.workers("faulty") not in ([], worker), START_S, lambda: "the worker was not replaced")

    def others_queued_behind():
        guilty = served.begin("faulty", {"id": next(IDS), "do": "hang"})
        wait_for(lambda: served.gauge("running_items", "faulty") == 1, START_S)
        behind = fresh(4)
        sent = [served.begin("faulty", item) for item in behind]
        expect(finish(guilty), 504, "deadline_exceeded")
        for item, client in zip(behind, sent):
            expect_value(finish(client), item)
        assert all(served.runs()[item["id"]] == 1 for item in behind)

    def one_of_eight():
        items = one_guilty(do="hang")
        answers, seconds = took(served.together, "faulty", items, IDS)
        expect_one_guilty(items, answers, 504, "deadline_exceeded", "limit")
        assert seconds < 5 + START_S, seconds
        ran = served.runs()[items[3]["id"]]
        answer = served.run("faulty", items[3])
        expect(answer, 504, "deadline_exceeded", "was not run")
        assert answer.took_s < 1 and served.runs()[items[3]["id"]] == ran

    def in_the_loop():
        """A call that blocks the loop of an asynchronous model takes its worker with it; those that wait do not count as blocked."""
        waiting = served.begin("waiting", waits := {"id": next(IDS), "await": 1})
        blocked = served.begin("waiting", {"id": next(IDS), "do": "hang"})
        expect(finish(blocked), 504, "deadline_exceeded")
        expect_value(finish(waiting), waits)

    for fault in ("hang", "hang in C", "stop"):
        yield f"alone: {fault}", lambda fault=fault: alone(fault)
    yield others_queued_behind
    yield one_of_eight
    yield in_the_loop


# Wrong answers.


@group("Faulty", "OneByOne", "Typed", "Waiting")
def answers(served):
    def one_raises():
        """F11, with what the log and the client are told of it."""
        for model in ("faulty", "onebyone", "waiting"):
            items = one_guilty(do="raise")
            got = served.together(model, items, IDS, lambda item, model=model: [f"X-Request-Id: {model}-{item['id']}"])
            expect_one_guilty(items, got, 500, "model_error", f"ValueError: told to raise by {items[3]['id']}")
            assert got[3].headers["x-request-id"] == f"{model}-{items[3]['id']}"
            assert not re.search(r"Traceback|faulty\.py|line \d", got[3].body.decode()), got[3].body
            log = served.log()
            told = [line for line in log.splitlines() if f"{model}-{items[3]['id']}" in line and "raised" in line]
            assert told, "the log does not say which request raised"
            assert "faulty.py" in log and "in refuse" in log, "there is no traceback in the log"

    def typed_row_raises():
        rows = [[1, 2], [3, 4], [-1, 0], [5, 6]]
        answer = served.ask("POST", "/predict/typed/batch", json.dumps(rows))
        got = [item.get("prediction", item.get("code")) for item in answer.json()]
        assert got == [{"y": [1, 2]}, {"y": [3, 4]}, "model_error", {"y": [5, 6]}], got

    def wrong_counts():
        """F12 and others: nobody can tell whose result is missing, so nobody is given one that may be another's."""
        for fault in ("drop", "drop the last", "add", "none", "dict"):
            items = one_guilty(do=fault)
            answers = served.together("faulty", items, IDS)
            expect_one_guilty(items, answers, 500, "output_mismatch", "result")

    def not_a_number():
        """F15."""
        answer = served.run("faulty", {"id": next(IDS), "do": "nan"})
        assert strict(answer.body) == {"prediction": {"v": "NaN"}, "parameters": {"non_finite": 1}}, answer.body
        item = json.dumps({"id": next(IDS), "do": "nan"})
        body = {"inputs": [{"name": "item", "shape": [1], "datatype": "BYTES", "data": [item]}]}
        answer = served.ask("POST", "/v2/models/faulty/infer", json.dumps(body))
        output = strict(answer.body)["outputs"][0]
        assert strict(output["data"][0]) == {"v": "NaN"}, answer.body
        assert output["parameters"]["non_finite"] == 1, answer.body
        answer = served.ask("POST", "/predict/typed", '{"x": [NaN, -Infinity]}')
        expected = {"prediction": {"y": ["NaN", "-Infinity"]}, "parameters": {"y": {"non_finite": 2}}}
        assert strict(answer.body) == expected, answer.body

    yield one_raises
    yield typed_row_raises
    yield wrong_counts
    yield not_a_number


def strict(text):
    def refuse(word):
        raise AssertionError(f"the answer has the bare word {word}")

    return json.loads(text, parse_constant=refuse)


@group("Faulty", "OneByOne")
def ten_thousand(served):
    def no_answer_is_anothers():
        """F13: one in two hundred has its result dropped from the middle of its batch, or raises. A batch that lacks one result and has
        another too many is as long as it should be, and nobody could tell."""

        def ask(number):
            foreign, failed = 0, []
            model = "faulty" if number % 4 else "onebyone"
            with Client(served.port, 60) as client:
                for at in range(-(-10_000 // CLIENTS)):
                    item = {"id": next(IDS)}
                    if at % 200 == 7 * number:
                        item["do"] = ("raise", "drop", "drop the last", "none")[number % 4]
                    client.send(request("POST", f"/predict/{model}", json.dumps(item)))
                    answer = client.answer()
                    assert answer is not None
                    if answer.status == 200:
                        foreign += answer.json() != {"prediction": {"v": item["id"]}}
                    elif "do" not in item:
                        failed.append(answer.body)
            return foreign, failed

        with ThreadPoolExecutor(CLIENTS) as pool:
            told = list(pool.map(ask, range(CLIENTS)))
        assert sum(foreign for foreign, _ in told) == 0, "some answers were others'"
        failed = [body for _, failed in told for body in failed]
        assert not failed, f"{len(failed)} innocents failed: {failed[:3]}"

    yield no_answer_is_anothers


# Memory and output.


@group("Faulty", settings={"Faulty": "memory_mb = 512"})
def memory(served):
    def beyond_the_cap():
        """F10."""
        items = one_guilty(do="allocate")
        answers = served.together("faulty", items, IDS)
        expect_one_guilty(items, answers, 500, "model_error", "MemoryError")

    yield beyond_the_cap


@group(
    "Faulty",
    "OneByOne",
    settings={"Faulty": "recycle_above_mb = 150", "OneByOne": "recycle_after = 20"},
)
def recycling(served):
    def by_count():
        first = served.workers("onebyone")
        seen = set()
        for _ in range(120):
            expect_value(served.run("onebyone", item := {"id": next(IDS)}), item)
            seen.update(served.workers("onebyone"))
        assert len(seen - set(first)) >= 1, "no worker was replaced"
        assert served.metrics().sum("jitney_restarted_workers_total", model="onebyone") == 0

    def above_the_mark():
        first = served.workers("faulty")
        for _ in range(3):
            expect_value(served.run("faulty", item := {"id": next(IDS), "do": "leak"}), item)
        end = time.monotonic() + START_S
        while set(first) & set(served.workers("faulty")):
            assert time.monotonic() < end, "the worker that leaks was not replaced"
            expect_value(served.run("faulty", item := {"id": next(IDS)}), item)
            time.sleep(0.05)

    yield by_count
    yield above_the_mark


@group("Faulty", "OneByOne")
def output(served):
    def a_flood_without_an_end():
        """F16."""
        before = len(served.log())
        printing = served.begin("faulty", item := {"id": next(IDS), "do": "print"})
        while served.gauge("running_items", "faulty") == 1:
            other = served.run("onebyone", beside := {"id": next(IDS)})
            expect_value(other, beside)
            assert other.took_s < 1, f"the other model answered only after {other.took_s:.2f} s"
        answer = finish(printing)
        expect_value(answer, item)
        wait_for(lambda: "to standard error" in served.log(), 5)
        printed = served.log()[before:]
        assert len(printed) < 100_000, f"{len(printed)} bytes of log for one line"
        line = next(line for line in printed.splitlines() if "behind the long line" in line)
        assert 'model="faulty"' in line and 'stream="stdout"' in line, line

    yield a_flood_without_an_end


# Clients that leave.


@group("Faulty", "Attentive", "Waiting")
def leaving(served):
    def cancelled(model):
        return served.metrics().sum("jitney_requests_total", model=model, code="cancelled")

    def queued():
        """F31: who leaves before the model has begun was never there."""
        gone = cancelled("faulty")
        items = fresh(24)
        held, clients = served.send_behind("faulty", items, IDS)
        stays = clients.pop(5)
        for client in clients:
            client.close()
        wait_for(lambda: cancelled("faulty") == gone + 23, 1, lambda: "not all were counted as cancelled at once")
        # The worker that has a batch in its channel is told within some 20 ms.
        time.sleep(0.1)
        served.release(held)
        expect_value(finish(stays), items[5])
        expect_value(served.run("faulty", last := {"id": next(IDS)}), last)
        runs = served.runs()
        # A full batch has been handed over ahead of time, and goes on for the sake of the one who stays.
        ran = [runs[item["id"]] for item in items]
        assert ran[5] == 1 and sum(ran) <= 8, ran
        assert cancelled("faulty") == gone + 23

    def all_of_them():
        """L03: also those of the batch that was handed over ahead of time."""
        items = fresh(24)
        held, clients = served.send_behind("faulty", items, IDS)
        for client in clients:
            client.close()
        time.sleep(0.1)
        served.release(held)
        expect_value(served.run("faulty", last := {"id": next(IDS)}), last)
        runs = served.runs()
        assert [runs[item["id"]] for item in items] == [0] * 24, runs

    def in_a_batch():
        gone = cancelled("faulty")
        items = [{"id": next(IDS), "do": "gate", "gate": f"in-batch-{gone}"} for _ in range(8)]
        held, clients = served.send_behind("faulty", items, IDS)
        served.release(held)
        wait_for(lambda: served.runs()[items[0]["id"]] == 1, START_S)
        for at in (1, 4, 7):
            clients[at].close()
        wait_for(lambda: cancelled("faulty") == gone + 3, 1)
        served.open(f"in-batch-{gone}")
        for at in (0, 2, 3, 5, 6):
            expect_value(finish(clients[at]), items[at])
        assert cancelled("faulty") == gone + 3

    def the_model_notices():
        items = [{"id": next(IDS), "s": 20} for _ in range(3)]
        clients = [served.begin("attentive", item) for item in items]
        wait_for(lambda: served.runs()[items[0]["id"]] == 1, START_S)
        for client in clients:
            client.close()
        first = str(items[0]["id"])
        wait_for(lambda: first in served.noted("noticed"), 1, lambda: "it goes on for nobody")
        for item in items[1:]:
            assert served.runs()[item["id"]] == 0 or str(item["id"]) in served.noted("noticed")

    def the_model_goes_on_for_those_who_stay():
        items = [{"id": next(IDS), "s": 0.4} for _ in range(4)]
        clients = [served.begin("attentive", {"id": next(IDS), "s": 0.2}) for _ in range(2)]
        wait_for(lambda: served.gauge("running_items", "attentive") == 2, START_S)
        clients += [served.begin("attentive", item) for item in items]
        wait_for(lambda: served.runs()[items[3]["id"]] == 1, START_S)
        for client in clients[2:5]:
            client.close()
        expect_value(finish(clients[5]), items[3])
        finish(clients[0]), finish(clients[1])
        assert not {str(item["id"]) for item in items} & set(served.noted("noticed"))

    def deadline():
        """L05: who does not have the time is told in time, and never run."""
        held = served.hold("faulty", IDS)
        item = {"id": next(IDS)}
        answer = served.run("faulty", item, headers=["X-Request-Timeout-Ms: 150"])
        assert answer.status in (429, 504), answer.body
        assert answer.took_s < 1, answer.took_s
        served.release(held)
        expect_value(served.run("faulty", last := {"id": next(IDS)}), last)
        assert served.runs()[item["id"]] == 0

    yield queued
    yield all_of_them
    yield in_a_batch
    yield the_model_notices
    yield the_model_goes_on_for_those_who_stay
    yield deadline


# Loads.


@group("Fragile", "Faulty", extra=["--reload"])
def loading(served):
    def crash_at_load():
        """F05: the model fails, and nobody else; the starts become fewer."""
        begun = len(served.noted("loading"))
        (served.path / "broken").touch()
        served.kill_worker("fragile")
        wait_for(lambda: served.status("fragile")["state"] == "failed", 60, lambda: "the model does not fail")
        assert len(served.noted("loading")) == begun + 5, served.noted("loading")
        answer = served.run("fragile", {"id": next(IDS)})
        expect(answer, 503, "failed")
        assert answer.took_s < 0.25, answer.took_s
        expect(served.ask("GET", "/v2/models/fragile/ready"), 503, "failed")
        before = served.cpu_s()
        for _ in range(10):
            expect_value(served.run("faulty", item := {"id": next(IDS)}), item)
            time.sleep(0.1)
        assert served.cpu_s() - before < 0.2, "a failed model takes the processor's time"
        assert len(served.noted("loading")) <= begun + 6
        assert served.ask("GET", "/v2/health/live").status == 200
        (served.path / "broken").unlink()
        source = served.path / "fragile" / "faulty.py"
        source.write_text(source.read_text() + "\n# mended\n")
        wait_for(lambda: served.status("fragile")["state"] == "ready", 60, lambda: "the model does not recover")
        expect_value(served.run("fragile", item := {"id": next(IDS)}), item)

    def reload_under_load():
        over, results = threading.Event(), []
        first = served.workers("faulty")

        def ask():
            with Client(served.port, 30) as client:
                while not over.is_set():
                    item = {"id": next(IDS)}
                    client.send(request("POST", "/predict/faulty", json.dumps(item)))
                    results.append((item, client.answer()))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            source = served.path / "faulty" / "faulty.py"
            for _ in range(2):
                workers = served.workers("faulty")
                source.write_text(source.read_text() + "\n# changed\n")
                wait_for(
                    lambda workers=workers: (
                        served.workers("faulty")
                        and not set(workers) & set(served.workers("faulty"))
                        and not set(workers) & set(served.marked())
                    ),
                    60,
                    lambda: "the workers were not replaced",
                )
        finally:
            over.set()
            for client in clients:
                client.join()
        assert not set(first) & set(served.marked()), "an old worker is left"
        assert results
        for item, answer in results:
            expect_value(answer, item)

    yield crash_at_load
    yield reload_under_load


def slow_start():
    """F18, and the start limit."""
    settings = {"Gated": "load_limit_ms = 60000", "Fragile": "", "Once": ""}
    with Watched("Gated", settings=settings, wait=False) as served:
        assert promptly(lambda: served.ask("GET", "/v2/health/live")).status == 200
        assert served.ask("GET", "/v2/health/ready").status == 503
        expect(served.run("gated", {"id": next(IDS)}), 503, "not_ready")
        (served.path / "open").touch()
        wait_for(lambda: served.ask("GET", "/v2/health/ready").status == 200, START_S)
        expect_value(served.run("gated", item := {"id": next(IDS)}), item)
    # The model shall have begun to load when the limit passes, which an interpreter that starts slowly must not keep it from.
    limit = f"load_limit_ms = {START_S * 1000}"
    with Watched("Gated", "Faulty", settings={"Gated": limit}, wait=False) as served:
        wait_for(lambda: served.noted("loading"), START_S)
        failed = lambda: served.status("gated")["state"] == "failed"  # noqa: E731
        wait_for(failed, START_S + 5, lambda: "the start limit does not hold")
        expect(served.run("gated", {"id": next(IDS)}), 503, "failed")
        wait_for(lambda: served.status("faulty")["state"] == "ready", START_S)
        expect_value(served.run("faulty", item := {"id": next(IDS)}), item)
        assert len(served.noted("loading")) == 1


def stopped_while_it_loads():
    """F19."""
    with Watched("Gated", wait=False) as served:
        wait_for(lambda: served.noted("loading"), START_S)
        served.terminate()
        begun = time.monotonic()
        assert served.exit_code(within=10) == 0
        assert time.monotonic() - begun < 2, "it waited for the load"
        wait_for(lambda: not served.marked(), 2, lambda: f"left: {served.marked()}")


# Ends.


def terminated_under_load():
    """F33."""
    with Watched("Faulty", "Waiting") as served:
        served.run("faulty", {"id": next(IDS), "do": "daemon"})
        items = [{"id": next(IDS), "do": "sleep", "s": 0.05} for _ in range(32)]
        sent = [served.begin("faulty", item) for item in items]
        idle = Client(served.port)
        wait_for(lambda: served.metrics().sum("jitney_received_items_total", model="faulty") == 33, START_S)
        served.terminate()
        wait_for(lambda: "draining" in served.log(), START_S)
        try:
            assert served.ask("GET", "/v2/health/ready").status == 503
            answer = served.run("faulty", {"id": next(IDS)})
            expect(answer, 503, "draining")
        except (ConnectionError, AssertionError) as error:
            assert isinstance(error, ConnectionError) or "closed without" in str(error), error
        for item, client in zip(items, sent):
            expect_value(finish(client), item)
        assert served.exit_code(within=10) == 0
        idle.close()
        wait_for(lambda: not served.marked(), 2, lambda: f"left: {served.marked()}")


def killed():
    """F35: with a process that has left its worker's group, and a batch that runs."""
    with Watched("Faulty", "Stubborn", "Waiting", flags={"--instances": "2"}) as served:
        shared = set(SHARED_MEMORY.iterdir())
        for model in ("faulty", "stubborn"):
            expect_value(served.run(model, item := {"id": next(IDS), "do": "daemon"}), item)
        wait_for(lambda: len(served.noted("daemon")) == 2, START_S)
        daemons = {int(pid) for pid in served.noted("daemon")}
        running = served.begin("faulty", {"id": next(IDS), "do": "hang"})
        wait_for(lambda: served.gauge("running_items", "faulty") == 1, START_S)
        assert daemons < set(served.marked()) and len(served.marked()) >= 10, served.marked()
        served.process.kill()
        served.process.wait()
        begun = time.monotonic()
        wait_for(lambda: not served.marked(), 10, lambda: f"left: {served.marked()}")
        assert time.monotonic() - begun < 2, f"they lived for {time.monotonic() - begun:.1f} s"
        left = {path for path in set(SHARED_MEMORY.iterdir()) - shared if "jitney" in path.name}
        assert not left, left
        running.close()
        with Watched("Faulty", port=served.port) as again:
            expect_value(again.run("faulty", item := {"id": next(IDS)}), item)


def stubborn():
    """A model that ignores signals and does not return from `close` keeps the server no longer than it may drain."""
    with Watched("Stubborn", flags={"--drain-ms": "2000"}) as served:
        expect_value(served.run("stubborn", item := {"id": next(IDS), "do": "daemon"}), item)
        os.kill(served.workers("stubborn")[0], signal.SIGTERM)
        expect_value(served.run("stubborn", item := {"id": next(IDS)}), item)
        served.terminate()
        begun = time.monotonic()
        code = served.exit_code(within=30)
        seconds = time.monotonic() - begun
        assert served.noted("closing"), "it was not asked to close"
        assert seconds < 2 + START_S / 3, f"it took {seconds:.1f} s"
        assert code == 0, code
        wait_for(lambda: not served.marked(), 2, lambda: f"left: {served.marked()}")


def ends_while_it_hangs():
    """A run that never ends is given up with the drain, and its worker killed."""
    with Watched("Faulty", flags={"--run-limit-ms": "60000", "--drain-ms": "1000"}) as served:
        running = served.begin("faulty", {"id": next(IDS), "do": "hang in C"})
        wait_for(lambda: served.gauge("running_items", "faulty") == 1, START_S)
        served.terminate()
        begun = time.monotonic()
        served.exit_code(within=30)
        # The drain, and what connections and models are given after it.
        assert time.monotonic() - begun < 1 + 3 + 1, f"it took {time.monotonic() - begun:.1f} s"
        running.close()
        wait_for(lambda: not served.marked(), 2, lambda: f"left: {served.marked()}")


ALONE = [slow_start, stopped_while_it_loads, terminated_under_load, killed, stubborn, ends_while_it_hangs]


class Report:
    def __init__(self, words):
        self.words, self.passed, self.failed, self.lock = words, 0, [], threading.Lock()

    def wants(self, name):
        return not self.words or any(word in name for word in self.words)

    def run(self, name, run):
        started = time.monotonic()
        error = None
        try:
            run()
        except Exception as raised:  # noqa: BLE001 - whatever it is, the next check shall run
            error = raised
        with self.lock:
            seconds = time.monotonic() - started
            if error is None:
                self.passed += 1
                print(f"ok    {name}  {seconds:.1f} s", flush=True)
                return
            self.failed.append(name)
            print(f"FAIL  {name}  {seconds:.1f} s", flush=True)
            traceback.print_exception(error, file=sys.stdout)
            sys.stdout.flush()

    def run_group(self, name, classes, options, checks):
        if not any(self.wants(title) for title, _ in titled(name, checks(None))):
            return
        with Watched(*classes, **options) as served:
            well = Wellness(served)
            for title, run in titled(name, checks(served)):
                if self.wants(title):
                    self.run(title, lambda run=run: (run(), well.check()))


def titled(name, checks):
    """The checks of a group with their titles."""
    for check in checks:
        title, run = check if isinstance(check, tuple) else (check.__name__, check)
        yield f"{name}: {title}".replace("_", " "), run


def main():
    started = time.monotonic()
    report = Report(sys.argv[1:])
    jobs = [(entry[0], lambda entry=entry: report.run_group(*entry)) for entry in GROUPS]
    for check in ALONE:
        title = check.__name__.replace("_", " ")
        if report.wants(title):
            jobs.append((title, lambda check=check, title=title: report.run(title, check)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (name, _), done in zip(jobs, [pool.submit(job) for _, job in jobs]):
            if error := done.exception():
                report.run(name, lambda error=error: raise_again(error))
    print(f"{report.passed} checks passed, {len(report.failed)} failed, in {time.monotonic() - started:.1f} s")
    for name in report.failed:
        print(f"failed: {name}")
    sys.exit(1 if report.failed else 0)


def raise_again(error):
    raise error


if __name__ == "__main__":
    main()
