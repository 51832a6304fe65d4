"""Pods of Kubernetes as instances, with an API server over real HTTP."""

import asyncio
import ssl
import threading
from collections.abc import Iterator

import httpx
import pytest
import trustme

from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.config.pool_settings import KubernetesDiscovery
from dualmap.router.deployment import kubernetes_discovery
from dualmap.router.deployment.kubernetes_discovery import MAX_RETRY_AFTER_S, PodWatch
from tests.conftest import WAIT_S, await_that
from tests.router.fake_kubernetes import NAMESPACE, FakeKubernetes, Refusal

SELECTOR = "app=vllm,tier in (gpu)"


@pytest.fixture
def kubernetes() -> Iterator[FakeKubernetes]:
    fake = FakeKubernetes()
    try:
        yield fake
    finally:
        fake.close()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(kubernetes, said, tmp_path, monkeypatch) -> Iterator[PodWatch]:
    monkeypatch.setattr(kubernetes_discovery, "FIRST_RETRY_S", 0.01)
    kubeconfig = kubernetes.write_kubeconfig(tmp_path / "kubeconfig")
    watch = PodWatch(KubernetesDiscovery(label_selector=SELECTOR, port=8000, kubeconfig=kubeconfig), said.append)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def finds(watch: PodWatch, found: dict[str, bool]) -> None:
    await_that(lambda: watch.found == found, f"{found} are found")


def test_pods_that_run_at_an_address_are_found_as_they_come_and_go(kubernetes, watch):
    finds(watch, {})
    kubernetes.put("a", "10.0.0.1")
    kubernetes.put("b", "fd00::2")
    kubernetes.put("pending", phase="Pending")
    kubernetes.put("done", "10.0.0.9", phase="Succeeded")
    finds(watch, {"10.0.0.1:8000": False, "[fd00::2]:8000": False})
    kubernetes.put("pending", "10.0.0.3")
    kubernetes.put("a", "10.0.0.1", leaving=True)
    finds(watch, {"10.0.0.1:8000": True, "[fd00::2]:8000": False, "10.0.0.3:8000": False})
    kubernetes.delete("a")
    kubernetes.put("pending", "10.0.0.3", phase="Failed")
    finds(watch, {"[fd00::2]:8000": False})
    assert kubernetes.selectors == {SELECTOR}
    assert kubernetes.tokens == {"Bearer a-token"}


def test_an_address_that_a_new_pod_has_stays_when_the_old_one_goes(kubernetes, watch):
    kubernetes.put("old", "10.0.0.1", leaving=True)
    finds(watch, {"10.0.0.1:8000": True})
    kubernetes.put("new", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    kubernetes.delete("old")
    kubernetes.put("other", "10.0.0.2")
    finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})


@pytest.mark.parametrize("cut", [False, True])
def test_a_watch_that_ends_goes_on_from_where_it_was(kubernetes, watch, said, cut):
    kubernetes.put("a", "10.0.0.1")
    kubernetes.put("b", "10.0.0.2")
    finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})
    await_that(lambda: kubernetes.watches > 0, "it watches")
    kubernetes.break_watches(cut=cut)
    kubernetes.delete("a")
    finds(watch, {"10.0.0.2:8000": False})
    await_that(lambda: kubernetes.watches == 2, "it watches again")
    kubernetes.break_watches(cut=cut)
    await_that(lambda: kubernetes.watches == 3, "and again")
    assert kubernetes.watched_from[-1] == kubernetes.version
    assert kubernetes.lists == 1
    assert said == []


@pytest.mark.parametrize(
    ("error", "complaints"), [({"code": 410, "message": "too old"}, 0), ({"code": 500, "message": "etcd"}, 2)]
)
def test_a_watch_that_fails_begins_again_with_what_there_is_by_then(kubernetes, watch, said, error, complaints):
    kubernetes.put("a", "10.0.0.1")
    kubernetes.put("b", "10.0.0.2")
    finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})
    lists = kubernetes.lists
    await_that(lambda: kubernetes.watches > 0, "it watches")
    kubernetes.break_watches(error)
    await_that(lambda: kubernetes.lists > lists, "it lists again")
    kubernetes.delete("a")
    finds(watch, {"10.0.0.2:8000": False})
    await_that(lambda: len(said) == complaints, "what is worth it is said")


def test_a_version_that_the_server_has_forgotten_is_no_fault(kubernetes, watch, said):
    kubernetes.put("a", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    await_that(lambda: kubernetes.watches > 0, "it watches")
    kubernetes.refusal = Refusal(503)
    kubernetes.break_watches()
    await_that(lambda: said, "it is said")
    kubernetes.delete("a")
    kubernetes.put("b", "10.0.0.2")
    kubernetes.forget_history()
    watches = kubernetes.watches
    kubernetes.refusal = None
    finds(watch, {"10.0.0.2:8000": False})
    await_that(lambda: kubernetes.watches > watches, "it watches again")
    lists = kubernetes.lists
    kubernetes.happen_elsewhere()
    kubernetes.forget_history()
    kubernetes.break_watches()
    await_that(lambda: kubernetes.lists > lists, "it lists again")
    await_that(lambda: kubernetes.watched_from[-1] == kubernetes.version, "and goes on from there")
    assert len(said) == 2


def test_bookmarks_keep_the_version_of_pods_that_rest_young(kubernetes, watch, said):
    kubernetes.put("a", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    await_that(lambda: kubernetes.watches > 0, "it watches")
    kubernetes.happen_elsewhere()
    kubernetes.bookmark()
    kubernetes.forget_history()
    kubernetes.break_watches()
    await_that(lambda: kubernetes.watched_from[-1] == kubernetes.version, "it goes on from the bookmark")
    assert kubernetes.lists == 1
    assert watch.found == {"10.0.0.1:8000": False}
    assert said == []


def test_a_server_that_is_asked_too_much_is_left_alone_for_as_long_as_it_says(kubernetes, watch, said, monkeypatch):
    kubernetes.put("a", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    await_that(lambda: kubernetes.watches > 0, "it watches")
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(min(seconds, 0.01))

    monkeypatch.setattr(kubernetes_discovery.asyncio, "sleep", note)
    kubernetes.refusal = Refusal(429, 7, "Too many requests, please try again later.\n")
    kubernetes.break_watches()
    await_that(lambda: slept.count(7.0) > 1, "it waits as long as it was asked to")
    kubernetes.refusal = Refusal(429, 86_400)
    await_that(lambda: MAX_RETRY_AFTER_S in slept, "but not for a day")
    kubernetes.put("b", "10.0.0.2")
    kubernetes.refusal = None
    finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})
    assert kubernetes.lists == 1, "many lists are the last thing that the server needs"
    assert len(said) == 2


def test_each_failure_is_followed_by_a_longer_pause(said, tmp_path, monkeypatch):
    slept: list[float] = []
    enough = threading.Event()
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 8:
            enough.set()
        await sleep(0)

    monkeypatch.setattr(kubernetes_discovery.asyncio, "sleep", note)
    watch = PodWatch(KubernetesDiscovery(label_selector="a=b", kubeconfig=tmp_path / "none"), said.append)
    watch.start()
    assert enough.wait(WAIT_S)
    watch.stop()
    for pause_s, base_s in zip(slept, (1, 2, 4, 8, 16, 30, 30, 30), strict=False):
        assert base_s <= pause_s <= 1.5 * base_s
    assert len(said) == 1


def test_while_a_list_is_slow_what_was_found_stays(kubernetes, watch, said):
    kubernetes.put("a", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    await_that(lambda: kubernetes.watches > 0, "it watches")
    kubernetes.slow = True
    requests = kubernetes.requests
    kubernetes.break_watches({"code": 410})
    await_that(lambda: kubernetes.requests > requests, "it lists again")
    kubernetes.put("b", "10.0.0.2")
    assert watch.found == {"10.0.0.1:8000": False}
    kubernetes.answer_lists()
    finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})
    assert said == []


def test_a_thousand_pods_come_in_pages_and_all_at_once(kubernetes, said, tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes_discovery, "FIRST_RETRY_S", 0.01)
    addresses = [f"10.0.{i // 250}.{i % 250}" for i in range(1200)]
    for i, address in enumerate(addresses):
        kubernetes.put(f"pod-{i}", address)
    kubeconfig = kubernetes.write_kubeconfig(tmp_path / "kubeconfig")
    watch = PodWatch(KubernetesDiscovery(label_selector=SELECTOR, kubeconfig=kubeconfig), said.append)
    sizes = set()
    watch.start()
    try:
        await_that(lambda: sizes.add(len(watch.found or ())) or len(watch.found or ()) == 1200, "all are found")
        assert sizes <= {0, 1200}, "half a list would let instances go"
        assert (kubernetes.lists, kubernetes.pages) == (1, 3)
        for i in range(600):
            kubernetes.delete(f"pod-{i}")
        finds(watch, {f"{address}:8000": False for address in addresses[600:]})
    finally:
        watch.stop()


def test_a_list_whose_pages_are_forgotten_begins_anew(kubernetes, said, tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes_discovery, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(kubernetes_discovery, "PAGE_PODS", 2)
    for i in range(5):
        kubernetes.put(f"pod-{i}", f"10.0.0.{i}")
    kubernetes.forget_pages_after = 1
    kubeconfig = kubernetes.write_kubeconfig(tmp_path / "kubeconfig")
    watch = PodWatch(KubernetesDiscovery(label_selector=SELECTOR, kubeconfig=kubeconfig), said.append)
    watch.start()
    try:
        finds(watch, {f"10.0.0.{i}:8000": False for i in range(5)})
        assert kubernetes.lists == 2
        assert said == []
    finally:
        watch.stop()


def test_while_the_server_is_away_what_was_found_stays(kubernetes, watch, said):
    kubernetes.put("a", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    await_that(lambda: kubernetes.watches > 0, "it watches")
    kubernetes.status = 503
    kubernetes.break_watches()
    await_that(lambda: said, "it is said")
    assert watch.found == {"10.0.0.1:8000": False}
    assert said[0].startswith("Kubernetes cannot be asked for pods, those known stay: ")
    kubernetes.status = 200
    await_that(lambda: len(said) == 2, "its return is said, once")
    kubernetes.delete("a")
    finds(watch, {})


def test_a_server_that_takes_requests_and_says_nothing_is_asked_again(kubernetes, said, tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes_discovery, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(kubernetes_discovery, "CONNECT_S", 0.1)
    monkeypatch.setattr(kubernetes_discovery, "TIMEOUT", httpx.Timeout(WAIT_S, read=0.5))
    kubernetes.put("a", "10.0.0.1")
    kubernetes.silent = True
    kubeconfig = kubernetes.write_kubeconfig(tmp_path / "kubeconfig")
    watch = PodWatch(KubernetesDiscovery(label_selector=SELECTOR, kubeconfig=kubeconfig), said.append)
    watch.start()
    try:
        await_that(lambda: said, "it is said")
        kubernetes.silent = False
        monkeypatch.setattr(kubernetes_discovery, "CONNECT_S", WAIT_S)
        finds(watch, {"10.0.0.1:8000": False})
        watches = kubernetes.watches
        await_that(lambda: kubernetes.watches > watches, "a watch without a word for so long is given up")
        assert watch.found == {"10.0.0.1:8000": False}
    finally:
        watch.stop()


def test_a_watch_that_is_refused_leaves_what_was_listed(kubernetes, watch):
    kubernetes.watch_status = 410
    kubernetes.put("a", "10.0.0.1")
    finds(watch, {"10.0.0.1:8000": False})
    kubernetes.break_watches()
    kubernetes.put("b", "10.0.0.2")
    finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})


def test_in_a_pod_its_service_account_is_used_and_its_token_may_change(said, tmp_path, monkeypatch):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    account = tmp_path / "serviceaccount"
    account.mkdir()
    authority.cert_pem.write_to_path(str(account / "ca.crt"))
    (account / "namespace").write_text(NAMESPACE)
    (account / "token").write_text("first")
    kubernetes = FakeKubernetes(tls)
    kubernetes.token = "first"
    monkeypatch.setattr(kubernetes_discovery, "SERVICE_ACCOUNT", account)
    monkeypatch.setattr(kubernetes_discovery, "FIRST_RETRY_S", 0.01)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kubernetes.port))
    kubernetes.put("a", "10.0.0.1")
    watch = PodWatch(KubernetesDiscovery(label_selector=SELECTOR), said.append)
    watch.start()
    try:
        finds(watch, {"10.0.0.1:8000": False})
        await_that(lambda: kubernetes.watches > 0, "it watches")
        (account / "token").write_text("second")
        kubernetes.token = "second"
        kubernetes.break_watches()
        kubernetes.put("b", "10.0.0.2")
        finds(watch, {"10.0.0.1:8000": False, "10.0.0.2:8000": False})
        assert said == []
    finally:
        watch.stop()
        kubernetes.close()


def test_a_watch_can_be_stopped_before_it_has_found_the_server(said, tmp_path):
    gone = FakeKubernetes()
    kubeconfig = gone.write_kubeconfig(tmp_path / "kubeconfig")
    gone.close()
    watch = PodWatch(KubernetesDiscovery(label_selector="a=b", kubeconfig=kubeconfig), said.append)
    watch.start()
    await_that(lambda: said, "it is said")
    watch.stop()
    assert watch.found is None
    assert not watch._thread.is_alive()


@pytest.mark.parametrize(
    ("discovery", "complaint"),
    [
        ({}, "discovery.kubernetes: Field required"),
        ({"kubernetes": {"label_selector": ""}}, "discovery.kubernetes.label_selector"),
        ({"kubernetes": {"label_selector": "a=b", "port": 0}}, "discovery.kubernetes.port"),
        ({"kubernetes": {"label_selector": "a=b", "pod": 1}}, "discovery.kubernetes.pod: unknown key"),
    ],
)
def test_what_is_to_be_discovered_is_read_strictly(discovery, complaint):
    with pytest.raises(ConfigFileError, match=complaint):
        load_config(None, {"discovery": discovery})


def test_discovered_instances_get_a_plan_but_not_beside_own_ones():
    discovery = {"kubernetes": {"label_selector": "a=b"}}
    assert not load_config(None, {"discovery": discovery}).is_empty
    assert load_config(None, {"discovery": discovery, "scaling": {"min_replicas": 0}}).scaling is not None
    with pytest.raises(ConfigFileError, match="scaling is for instances of one kind"):
        load_config(None, {"discovery": discovery, "simulate": {"count": 1}, "scaling": {}})
