"""The embedded server: one for each folder, ends with its last user, however that one ends."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import redis

from service.embedded_redis import embedded_redis
from service.errors import SettingsError, StoreUnavailable
from service.redis_keeper import Keeper

# Joins, says the server's process id, and leaves at the end of its input.
USER = """
import sys
from pathlib import Path
import redis
from service.embedded_redis import embedded_redis
with embedded_redis(Path(sys.argv[1])) as url:
    client = redis.Redis.from_url(url)
    print(client.info("server")["process_id"], flush=True)
    sys.stdin.read()
    client.set("last", "word")
    client.close()
"""


def start_user(folder: Path) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", USER, str(folder)]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def server_of(user: subprocess.Popen[str]) -> int:
    assert user.stdout is not None
    return int(user.stdout.readline())


def leave(user: subprocess.Popen[str]) -> None:
    user.communicate(timeout=30)
    assert user.returncode == 0


def server_at(url: str) -> int:
    with closing(redis.Redis.from_url(url)) as client:
        return int(client.info("server")["process_id"])


def has_ended(process: int) -> bool:
    return state_and_parent(process)[0] in ("", "Z")


def state_and_parent(process: int) -> tuple[str, int]:
    """As /proc tells; no state where there is no such process."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return state, int(parent)


def wait_until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_data_outlives_the_server(tmp_path: Path) -> None:
    for before, now in ((None, "one"), (b"one", "two")):
        with embedded_redis(tmp_path) as url, closing(redis.Redis.from_url(url)) as client:
            assert client.get("key") == before
            client.set("key", now)


def test_the_server_has_ended_when_the_block_has(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url:
        server = server_at(url)
        sockets = Path(url.removeprefix("unix://")).parent
    assert has_ended(server)
    assert not sockets.exists()
    assert not (tmp_path / "redis" / "keeper.address").exists()


def test_it_writes_to_disk_and_never_evicts(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, closing(redis.Redis.from_url(url)) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}, "nobody reaches it from outside"


def test_a_folder_with_spaces_and_a_long_name_is_fine(tmp_path: Path) -> None:
    folder = tmp_path / "with 'quotes' and \"spaces\"" / ("long" * 40)
    with embedded_redis(folder) as url:
        server_at(url)
    assert (folder / "redis" / "appendonly.aof").exists()


def test_a_second_process_joins_and_the_last_one_ends_it(tmp_path: Path) -> None:
    first, second = start_user(tmp_path), start_user(tmp_path)
    server = server_of(first)
    assert server_of(second) == server
    leave(first)
    assert not has_ended(server), "who started it left, but another one uses it"
    leave(second)
    wait_until(lambda: has_ended(server))


def test_users_that_start_at_the_same_moment_share_one_server(tmp_path: Path) -> None:
    users = [start_user(tmp_path) for _ in range(5)]
    servers = {server_of(user) for user in users}
    assert len(servers) == 1
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(leave, users))


def test_a_server_whose_data_took_minutes_to_load_waits_for_its_first_user(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "redis-server", tmp_path, lock=-1, started=time.monotonic() - 100)
    with ThreadPoolExecutor(1) as pool, socket.socket(socket.AF_UNIX) as user:
        serving = pool.submit(keeper.serve)
        wait_until(lambda: serving.done() or user.connect_ex(str(keeper.socket_path)) == 0)
        assert not serving.done()
        assert user.recv(200).startswith(b"unix://")
    keeper.let_go()


def test_another_folder_has_another_server(tmp_path: Path) -> None:
    with embedded_redis(tmp_path / "a") as one, embedded_redis(tmp_path / "b") as other:
        assert server_at(one) != server_at(other)


def test_it_does_not_outlive_a_killed_user(tmp_path: Path) -> None:
    user = start_user(tmp_path)
    server = server_of(user)
    user.kill()
    user.communicate()
    wait_until(lambda: has_ended(server))
    with embedded_redis(tmp_path) as url:
        server_at(url)


def test_it_does_not_outlive_a_killed_keeper(tmp_path: Path) -> None:
    user = start_user(tmp_path)
    server = server_of(user)
    os.kill(state_and_parent(server)[1], signal.SIGKILL)
    wait_until(lambda: has_ended(server))
    user.kill()
    user.communicate()
    with embedded_redis(tmp_path) as url:  # whatever the killed ones left in the folder
        assert server_at(url) != server


def test_users_of_a_killed_keeper_get_their_server_back_at_the_same_address(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, closing(redis.Redis.from_url(url)) as client:
        client.set("key", "value")
        first = server_at(url)
        os.kill(state_and_parent(first)[1], signal.SIGKILL)
        wait_until(lambda: has_ended(first))
        wait_until(lambda: answers(client))
        assert client.get("key") == b"value"
        with embedded_redis(tmp_path) as joined:
            assert joined == url
            assert server_at(joined) == server_at(url)
        wait_until(lambda: answers(client))  # this process is still a user, so the server stays
        last = server_at(url)
    wait_until(lambda: has_ended(last))


def test_a_server_that_takes_its_time_to_end_keeps_the_folder(tmp_path: Path) -> None:
    """Two servers must not write to one append-only file."""
    user = start_user(tmp_path)
    server = server_of(user)
    keeper = state_and_parent(server)[1]
    os.kill(server, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    follower = start_user(tmp_path)
    assert follower.stdout is not None
    early, _, _ = select.select([follower.stdout], [], [], 1.0)
    os.kill(server, signal.SIGCONT)
    assert early == [], "it got a server while the old one was there"
    assert server_of(follower) != server
    assert has_ended(server)
    leave(follower)
    user.kill()
    user.communicate()


def test_the_last_user_waits_for_the_end_also_where_another_one_started_it(tmp_path: Path) -> None:
    first = start_user(tmp_path)
    server = server_of(first)
    with embedded_redis(tmp_path):
        leave(first)
        assert not has_ended(server)
    assert has_ended(server)


def test_ctrl_c_reaches_the_user_and_not_the_server(tmp_path: Path) -> None:
    user = start_user(tmp_path)
    server = server_of(user)
    assert os.getpgid(server) != os.getpgid(user.pid)
    assert os.getsid(server) != os.getsid(user.pid)
    os.killpg(user.pid, signal.SIGINT)
    user.communicate(timeout=30)
    wait_until(lambda: has_ended(server))


def test_a_server_that_crashes_is_started_again_with_its_data(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, closing(redis.Redis.from_url(url)) as client:
        client.set("key", "value")
        crashed = server_at(url)
        os.kill(crashed, signal.SIGKILL)
        wait_until(lambda: has_ended(crashed))
        wait_until(lambda: answers(client))
        assert client.get("key") == b"value"
        assert server_at(url) != crashed


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_half_written_append_only_file_is_no_obstacle(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, closing(redis.Redis.from_url(url)) as client:
        client.set("key", "value")
    with (tmp_path / "redis" / "appendonly.aof").open("ab") as stream:
        stream.write(b"*3\r\n$3\r\nSET\r\n$3\r\nke")  # as after a power cut
    with embedded_redis(tmp_path) as url, closing(redis.Redis.from_url(url)) as client:
        assert client.get("key") == b"value"


def test_a_damaged_append_only_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonly.aof").write_bytes(b"no commands at all\r\n" * 10)
    with (
        pytest.raises(StoreUnavailable, match=r"redis-server ended at its start.*append only file"),
        embedded_redis(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="the data folder"), embedded_redis(tmp_path / "file"):
        pass
