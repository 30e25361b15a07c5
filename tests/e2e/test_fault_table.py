"""Which test does which of the 25 faults to real processes and sockets. The table is held to the tests that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKERS = "e2e/test_faults_workers.py"
LOCAL = "daemon/controller/test_local_workers.py"
RELAY_CLIENTS = "daemon/gateway/test_relay_clients.py"
RELAY_FAILURES = "daemon/gateway/test_relay_failures.py"
WIRE = "daemon/controller/test_wire.py"

FAULTS: dict[int, tuple[str, list[tuple[str, str]]]] = {
    1: ("a worker is killed mid-stream", [
        (WORKERS, "test_1_a_worker_killed_mid_stream"),
        ("e2e/test_faults.py", "test_a_worker_killed_mid_stream_ends_the_stream_with_an_error_and_is_replaced"),
    ]),
    2: ("a worker is killed before its first byte, with and without a replica", [
        (WORKERS, "test_2_a_worker_killed_before_its_first_byte"),
        (RELAY_FAILURES, "test_a_worker_that_dies_before_its_first_byte_is_replaced_once"),
    ]),
    3: ("a worker hangs with its socket open", [
        (WORKERS, "test_3_a_worker_that_hangs_with_its_socket_open"),
        (LOCAL, "test_a_hung_worker_is_killed_and_replaced"),
    ]),
    4: ("the daemon is killed", [
        ("e2e/test_faults.py", "test_a_killed_daemon_leaves_no_worker"),
        ("daemon/supervisor/test_process.py", "test_stale_sockets_are_cleared_and_nothing_else"),
        ("daemon/test_lifecycle.py", "test_killed_then_started"),
    ]),
    5: ("a worker forks and is stopped", [
        (LOCAL, "test_a_grandchild_goes_with_the_worker"),
        ("daemon/supervisor/test_process.py", "test_a_child_that_left_the_group_goes_too"),
    ]),
    6: ("a load runs out of memory", [
        (WORKERS, "test_6_a_load_that_runs_out_of_memory"),
        ("daemon/scheduler/test_placement.py", "test_after_out_of_memory_it_is_tried_once_where_there_is_more"),
    ]),
    7: ("a load stalls, or is slow and moves", [
        (LOCAL, "test_a_load_without_progress_is_given_up"),
        (LOCAL, "test_a_slow_load_that_moves_is_not_given_up"),
    ]),
    8: ("a worker dies five times in a row", [
        (WORKERS, "test_8_a_worker_that_dies_again_and_again"),
        (LOCAL, "test_five_deaths_fail_fast_until_restarted"),
    ]),
    9: ("two models race for room for one", [
        (WORKERS, "test_9_two_models_race_for_room_for_one"),
        (LOCAL, "test_many_callers_cause_one_load"),
        (LOCAL, "test_eviction_by_memory_spares_the_busy"),
    ]),
    10: ("time is up as a request arrives, and during an answer", [
        (WORKERS, "test_10_time_is_up_during_a_long_answer_and_as_a_request_arrives"),
        (LOCAL, "test_an_idle_worker_leaves_and_comes_back"),
    ]),
    11: ("clients leave while queued, loading and streaming", [
        (WORKERS, "test_11_a_thousand_clients_that_leave_while_queued_loading_and_streaming"),
        (LOCAL, "test_clients_that_leave_while_loading_queued_or_granted_leave_no_trace"),
        (RELAY_CLIENTS, "test_three_hundred_clients_that_leave_at_any_moment_leave_nothing_behind"),
        ("daemon/worker/test_chat_route.py", "test_a_client_that_leaves_ends_its_generation"),
    ]),
    12: ("first token and gap slower than a minute", [
        (WORKERS, "test_12_first_token_and_gap_slower_than_a_minute"),
        (RELAY_FAILURES, "test_a_slow_first_token_gets_comments_then_the_answer"),
    ]),
    13: ("a full queue, also of a loaded model", [(WORKERS, "test_13_a_full_queue")]),
    14: ("SIGTERM under load, once and twice", [
        ("daemon/test_drain.py", "test_a_daemon_told_to_stop_lets_an_answer_end_and_leaves_no_worker"),
        ("daemon/test_drain.py", "test_what_does_not_finish_is_cut_at_the_limit_or_at_the_second_signal"),
        ("daemon/test_drain.py", "test_a_second_signal_ends_it_now"),
    ]),
    15: ("started twice; a foreign pid in the pidfile; a taken port", [
        ("e2e/test_faults.py", "test_the_second_start_says_what_runs"),
        ("e2e/test_faults.py", "test_a_stale_pidfile_of_a_foreign_process_is_recognised"),
        ("e2e/test_faults.py", "test_a_taken_port_is_named"),
        ("daemon/test_lifecycle.py", "test_two_starts_at_once_make_one_daemon"),
    ]),
    16: ("a bad config.toml on reload; a damaged database; a full disk", [
        ("daemon/controller/test_reload.py", "test_a_bad_file_changes_nothing_and_is_shown_with_its_line"),
        ("e2e/test_faults_config.py", "test_16_a_running_daemon_and_its_config_file"),
        ("daemon/test_store.py", "test_a_newer_or_damaged_file_is_refused_with_a_next_step"),
        (WORKERS, "test_16_a_full_disk_is_said_and_survived"),
    ]),
    17: ("bodies that are no requests", [
        ("daemon/test_app.py", "test_a_body_that_cannot_be_used_is_a_400_at_once"),
        ("daemon/test_app.py", "test_a_body_over_the_limit_is_a_413_that_can_be_read"),
        ("e2e/test_openai_client.py", "test_a_bad_body_is_refused_in_openais_shape"),
    ]),
    18: ("fields out of range", [("e2e/test_openai_client.py", "test_a_bad_field_is_named")]),
    19: ("schemas and patterns that are wrong or never end", [
        ("daemon/worker/test_tools_program.py", "test_a_bad_schema_is_a_400_within_two_seconds"),
    ]),
    20: ("prompts over the context, bad roles, unknown models", [
        ("e2e/test_openai_client.py", "test_a_prompt_over_the_context_is_refused_with_the_numbers"),
        ("e2e/test_openai_client.py", "test_an_unknown_model_names_the_near_one"),
        ("fcd/test_openai_wire.py", "test_what_is_refused_names_the_field"),
        ("daemon/worker/test_chat_route.py", "test_what_cannot_be_done_is_refused_before_the_engine"),
    ]),
    21: ("images by URL", [("e2e/test_faults_config.py", "test_21_no_image_is_fetched")]),
    22: ("foreign hosts and origins", [
        ("daemon/test_security.py", "test_foreign_host_names_are_refused"),
        ("daemon/test_security.py", "test_web_pages_elsewhere_are_refused_and_told_nothing"),
        ("daemon/test_security.py", "test_bodies_must_say_that_they_are_json"),
        ("e2e/test_openai_client.py", "test_foreign_hosts_and_origins_are_refused"),
    ]),
    23: ("no key on any route; listening wide without one", [
        ("daemon/test_security.py", "test_every_route_of_the_real_controller_is_closed"),
        ("daemon/test_security.py", "test_it_will_not_listen_beyond_this_machine_without_a_key"),
    ]),
    24: ("workers that register as what they are not", [
        (WIRE, "test_registering_needs_a_token"),
        (WIRE, "test_addresses_that_are_nobodys_worker"),
        (WIRE, "test_addresses_that_no_worker_has_are_never_called"),
        (WIRE, "test_nobody_answers_to_a_name_of_this_machine"),
        (WIRE, "test_a_silent_worker_is_lost_and_comes_back_by_registering"),
        ("daemon/scheduler/test_decide.py", "test_lying_reports_change_nothing_but_the_order"),
    ]),
    25: ("names that are paths, pickled weights, downloads cut or changed", [
        ("fcd/test_catalog.py", "test_names_from_clients_never_reach_the_file_system"),
        ("fcd/test_download.py", "test_pickle_is_taken_only_when_asked_for"),
        ("daemon/engines/test_loading.py", "test_code_of_the_model_is_not_run"),
        ("fcd/test_download.py", "test_a_pull_that_was_killed_goes_on_where_it_stopped"),
        ("fcd/test_download.py", "test_a_file_that_was_changed_on_its_way_is_thrown_away"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_fault_has_its_tests(fault: int) -> None:
    _, tests = FAULTS[fault]
    assert tests
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{file} has no {name}"


def test_all_are_there() -> None:
    assert sorted(FAULTS) == list(range(1, 26))
