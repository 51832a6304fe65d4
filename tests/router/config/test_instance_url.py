"""instance_url.py: where instances are, and what is meant by what is no URL of one."""

import re

import pytest

from dualmap.router.config.instance_specs import external_spec, own_specs
from dualmap.router.config.instance_url import read_url
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.scheduler.fleet.endpoint import Endpoint


@pytest.mark.parametrize(
    ("url", "endpoint", "instance_id", "shown"),
    [
        ("http://10.0.0.7:8000", Endpoint("10.0.0.7", 8000), "10.0.0.7:8000", "http://10.0.0.7:8000"),
        ("http://10.0.0.7:8000/", Endpoint("10.0.0.7", 8000), "10.0.0.7:8000", "http://10.0.0.7:8000"),
        ("http://VLLM-0.vllm", Endpoint("vllm-0.vllm", 80), "vllm-0.vllm:80", "http://vllm-0.vllm:80"),
        ("http://vllm_0:8000", Endpoint("vllm_0", 8000), "vllm_0:8000", "http://vllm_0:8000"),
        (
            "https://vllm.example",
            Endpoint("vllm.example", 443, tls=True),
            "vllm.example:443",
            "https://vllm.example:443",
        ),
        ("http://[::1]:8000", Endpoint("::1", 8000), "[::1]:8000", "http://[::1]:8000"),
        ("http://[FE80::1]", Endpoint("fe80::1", 80), "[fe80::1]:80", "http://[fe80::1]:80"),
        ("http://h:1/llm/", Endpoint("h", 1, prefix="/llm"), "h:1/llm", "http://h:1/llm"),
        ("http://h:1//a/./b/../c", Endpoint("h", 1, prefix="/a/c"), "h:1/a/c", "http://h:1/a/c"),
        (
            "http://h:1/a b/%C3%BC",
            Endpoint("h", 1, prefix="/a%20b/%C3%BC"),
            "h:1/a%20b/%C3%BC",
            "http://h:1/a%20b/%C3%BC",
        ),
        ("unix:///run/vllm.sock", Endpoint(socket="/run/vllm.sock"), "unix:/run/vllm.sock", "unix:/run/vllm.sock"),
        ("unix:/run/vllm.sock", Endpoint(socket="/run/vllm.sock"), "unix:/run/vllm.sock", "unix:/run/vllm.sock"),
        ("http://h:1@3", Endpoint("h", 1, rank=3), "h:1@3", "http://h:1@3"),
        ("https://h/llm@0", Endpoint("h", 443, tls=True, prefix="/llm", rank=0), "h:443/llm@0", "https://h:443/llm@0"),
        ("http://[::1]:8000@12", Endpoint("::1", 8000, rank=12), "[::1]:8000@12", "http://[::1]:8000@12"),
        ("unix:/s@1", Endpoint(socket="/s", rank=1), "unix:/s@1", "unix:/s@1"),
    ],
)
def test_a_url_says_where_an_instance_is_and_how_it_is_called(url, endpoint, instance_id, shown):
    read = read_url(url)
    assert (read, read.instance_id, str(read)) == (endpoint, instance_id, shown)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("10.0.0.7:8000", "did you mean http://10.0.0.7:8000?"),
        ("localhost:8000", "did you mean http://localhost:8000?"),
        ("htp://h:1", "did you mean http://h:1?"),
        ("tcp://10.0.0.7:8000", "did you mean http://10.0.0.7:8000?"),
        ("http:/h:1", "has the form http://HOST:PORT"),
        ("http://", "has the form http://HOST:PORT"),
        ("vllm", "has the form http://HOST:PORT"),
        ("http://::1:8000", "an IPv6 address stands in brackets: http://[::1]:8000"),
        ("https://fe80::1", "an IPv6 address stands in brackets: https://[fe80::1]:PORT"),
        ("http://[::1", "the port from 1 to 65535"),
        ("http://h:0", "the port from 1 to 65535"),
        ("http://h:70000", "the port from 1 to 65535"),
        ("http://h:80a", "the port from 1 to 65535"),
        ("http://a b:80", "no host is called 'a b'"),
        ("http://-h:80", "no host is called '-h'"),
        ("http://h\u00f6st:80", "no host is called"),
        ("http://h:1?a=b", "nothing after a `?` or a `#`"),
        ("http://h:1/#a", "nothing after a `?` or a `#`"),
        ("http://h:1\r\nx: y", "without spaces around it"),
        (" http://h:1", "without spaces around it"),
        ("http://user:pw@h:1", "takes no user and password: they would be dropped (see key_file)"),
        ("http://h:1/v1", "its server's, without /v1: did you mean http://h:1?"),
        ("https://h/llm/v1/", "its server's, without /v1: did you mean https://h/llm?"),
        ("http://h:1/%2561", "plain, or encoded once"),
        ("http://h:1/a;b", "plain, or encoded once"),
        ("/run/vllm.sock", "did you mean unix:///run/vllm.sock?"),
        ("http://unix:/run/vllm.sock", "did you mean unix:///run/vllm.sock?"),
        ("http://unix:/run/vllm.sock:/v1", "did you mean unix:///run/vllm.sock?"),
        ("unix://run/vllm.sock", "the path of a socket is absolute: unix:///run/vllm.sock"),
        ("unix:run/vllm.sock", "the path of a socket is absolute: unix:///run/vllm.sock"),
        ("unix://", "the path of a socket is absolute: unix:///run/vllm.sock"),
        ("unix:///run/", "the path of a socket is absolute: unix:///run"),
        ("unix:///" + "x" * 107, "has 107 bytes at most"),
        ("http://h:1@", "stand at the end of its URL: http://HOST:PORT@0..7"),
        ("http://h:1@0-7", "did you mean http://h:1@0..7?"),
        ("http://h:1@0..", "stand at the end of its URL"),
        ("http://h:1@0..3..5", "stand at the end of its URL"),
        ("http://h:1@0.3", "stand at the end of its URL"),
        ("http://h:1@-1", "stand at the end of its URL"),
        ("http://h:1@7..0", "the lower rank first: not 7..0"),
        ("http://h:1@0..3,2", "each rank once"),
        ("http://h:1@0..9999", "1024 at most"),
        ("http://h:1@0..3/llm", "stand at the end of its URL"),
        ("http://::1@0..3", "an IPv6 address stands in brackets: http://[::1]:PORT"),
        ("h:1@0..3", "did you mean http://h:1?"),
        ("http://user@10.0.0.7", "takes no user and password"),
        ("http://user:pw@h:1@0..3", "takes no user and password"),
    ],
)
def test_what_is_no_url_of_an_instance_gets_the_nearest_one_that_is(url, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_url(url)


@pytest.mark.parametrize(
    ("url", "ids"),
    [
        ("http://h:1", ["h:1"]),
        ("http://h:1@3", ["h:1@3"]),
        ("http://h:1@0..2", ["h:1@0", "h:1@1", "h:1@2"]),
        ("http://[::1]:8000/llm@0,2", ["[::1]:8000/llm@0", "[::1]:8000/llm@2"]),
        ("http://h:1@0..1,5", ["h:1@0", "h:1@1", "h:1@5"]),
    ],
)
def test_each_rank_that_a_url_names_is_an_instance(url, ids):
    config = load_config(None, {"instances": [url]})
    specs = [external_spec(config, "", member).spec for member in config.instances[0].members]
    assert [spec.instance_id for spec in specs] == [spec.endpoint.instance_id for spec in specs] == ids
    assert {spec.endpoint.server.instance_id for spec in specs} == {ids[0].partition("@")[0]}


def test_ranks_keep_what_their_instance_was_configured_with_and_are_as_many_of_the_pools():
    slow = {"url": "http://h:1@0..2", "role": "prefill", "capacity": {"prefill_tokens_per_s": 1000}}
    config = load_config(None, {"instances": [slow, {"url": "http://h:2", "capacity": {"prefill_tokens_per_s": 5000}}]})
    ranks, other = config.instances
    assert [member.role for member in ranks.members] == ["prefill"] * 3
    weights = {external_spec(config, "", member).spec.capacity.weight for member in ranks.members}
    assert weights == {0.5}, "of a mean of 2,000"
    assert external_spec(config, "", other).spec.capacity.weight == 2.5
    (at,) = {member.at("10.0.0.7").id for member in ranks.members[:1]}
    assert at == "10.0.0.7:1@0"


def test_what_a_url_says_wrong_is_told_where_it_stands_and_without_its_password():
    with pytest.raises(ConfigFileError) as raised:
        load_config(None, {"instances": ["http://user:secret@h:1"]})
    assert str(raised.value).startswith("instances.0.url: ")
    assert "secret" not in str(raised.value)


def test_an_instance_has_the_key_of_all_unless_it_has_its_own(tmp_path):
    for name in ("all", "own"):
        (tmp_path / name).write_text(name)
    instances = ["http://h:1", {"url": "http://h:2", "key_file": str(tmp_path / "own")}]
    for gateway, common in (({"instance_key_file": str(tmp_path / "all")}, str(tmp_path / "all")), ({}, "")):
        config = load_config(None, {"instances": instances, "gateway": gateway, "simulate": {"count": 1}})
        (simulated,) = own_specs(config)
        one, other = (external_spec(config, "", instance) for instance in config.instances)
        assert (one.spec.endpoint.key_file, other.spec.endpoint.key_file) == (common, str(tmp_path / "own"))
        assert simulated.spec.endpoint.key_file == ""


def test_a_server_of_ours_has_the_key_of_all(tmp_path):
    (tmp_path / "vllm").touch(mode=0o755)
    (tmp_path / "key").write_text("secret")
    vllm = {"model": "m", "executable": str(tmp_path / "vllm"), "engine_args": "--api-key secret"}
    (placed,) = own_specs(load_config(None, {"vllm": vllm, "gateway": {"instance_key_file": str(tmp_path / "key")}}))
    assert placed.spec.endpoint.key_file == str(tmp_path / "key")


@pytest.mark.parametrize(
    ("instance", "said"),
    [
        ({"url": "http://h:1", "ca_file": "{dir}/key"}, "ca_file is for https://, and http://h:1 has no certificate"),
        ({"url": "unix:///s", "server_name": "h"}, "server_name is for https://, and unix:/s has no certificate"),
        ({"url": "https://h:1", "server_name": "a b"}, "instances.0.server_name: no host is called 'a b'"),
        ({"url": "https://h:1", "ca_file": "{dir}/none"}, "instances.0.ca_file: {dir}/none cannot be read"),
        ({"url": "https://h:1", "ca_file": "{dir}/key"}, "instances.0.ca_file: {dir}/key holds no certificate"),
        ({"url": "http://h:1", "key_file": "{dir}/none"}, "instances.0.key_file: {dir}/none cannot be read"),
        ({"url": "http://h:1", "key_file": "{dir}/empty"}, "instances.0.key_file: {dir}/empty is empty"),
        ({"url": "http://h:1", "key_file": "{dir}/words"}, "{dir}/words holds more than one word of plain characters"),
        ({"url": "http://h:1", "insecure": True}, "instances.0.insecure: unknown key"),
    ],
)
def test_files_and_names_that_cannot_be_used_are_told_before_anything_starts(tmp_path, instance, said):
    for name, content in (("key", "secret"), ("empty", "\n"), ("words", "two words")):
        (tmp_path / name).write_text(content)
    filled = {name: value.format(dir=tmp_path) if isinstance(value, str) else value for name, value in instance.items()}
    with pytest.raises(ConfigFileError) as raised:
        load_config(None, {"instances": [filled]})
    assert said.format(dir=tmp_path) in str(raised.value)
    assert "two words" not in str(raised.value)


def test_instances_are_the_same_however_they_are_reached():
    for one, other in (
        ("http://localhost:8000", "https://127.0.0.1:8000"),
        ("http://[::1]:1", "http://[0::1]:1"),
        ("unix:/s", "unix:///s"),
        ("http://h:1/a", "http://h:1/a/"),
    ):
        with pytest.raises(ConfigFileError, match="named twice"):
            load_config(None, {"instances": [one, other]})
    load_config(None, {"instances": ["http://h:1/a", "http://h:1/b", "http://h:1", "unix:/h", "unix:/i"]})


def test_an_https_address_of_the_gateway_itself_is_none_of_an_instance():
    with pytest.raises(ConfigFileError, match="is an address of the gateway itself"):
        load_config(None, {"instances": ["https://127.0.0.1:8080/x"]})
    load_config(None, {"instances": ["unix:/s"], "gateway": {"host": "::", "port": 8000}})


@pytest.mark.parametrize("url", ["unix:/s", "http://10.0.0.1:1/llm"])
def test_a_proxy_cannot_be_sent_to_a_socket_or_below_a_prefix(url):
    with pytest.raises(ConfigFileError, match=r"gateway\.picker: proxies reach instances at HOST:PORT only"):
        load_config(None, {"instances": [url], "gateway": {"picker": {}}})
    load_config(None, {"instances": ["https://10.0.0.1:1", "http://[::1]:1"], "gateway": {"picker": {}}})
