"""Depths of hot prefixes as Fleet finds them in the prompts of all gateways."""

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.fleet.agreed_depths import AgreedDepths
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.prefix_key import MIN_CROWD, PrefixKeys


def member(instance_id: str, pool: str = "", model: str = "") -> Member:
    cards = ({"id": model},) if model else ()
    endpoint, capacity = Endpoint("h", 1), InstanceCapacity()
    return Member(instance_id, 1, endpoint, state=MemberState.READY, capacity=capacity, pool=pool, model_cards=cards)


MEMBERS = {m.instance_id: m for m in (member("a"), member("b"), member("c", "other"))}


def crowd(instance_id: str):
    """Prompts that share their first block only."""
    return tuple(Sent(instance_id, tuple(hash_trace_ids([0, 100 + i, 200 + i]))) for i in range(4 * MIN_CROWD))


def agreed_on(instance_id: str = "a") -> AgreedDepths:
    depths = AgreedDepths({"": SchedulerConfig(), "other": SchedulerConfig()})
    depths.resize(MEMBERS)
    depths.observe(crowd(instance_id), MEMBERS)
    return depths


def test_a_hot_prefix_makes_a_new_epoch_that_is_told_until_it_is_known():
    depths = agreed_on()
    news = depths.news(0)
    assert news[""].depths == ((hash_trace_ids([0])[0], 2),)
    assert news["other"].depths == ()
    assert depths.news(0) == news
    assert depths.news(news[""].epoch) == {}


def test_prompts_known_by_their_tokens_are_agreed_on_by_the_chain_of_their_keys():
    depths = AgreedDepths({"": SchedulerConfig(), "other": SchedulerConfig()})
    depths.resize(MEMBERS)
    no_block: tuple[int, ...] = ()
    for held in (no_block, tuple(hash_trace_ids([55]))):
        depths.observe(tuple(Sent(i, held, blocks) for i, blocks, _ in crowd("a")), MEMBERS)
    depths.observe((Sent("a", ()),), MEMBERS)  # nothing names it
    assert depths.news(0)[""].depths == ((hash_trace_ids([0])[0], 2),)


def test_pools_have_their_own_depths():
    news = agreed_on("c").news(0)
    assert (news[""].depths, len(news["other"].depths)) == ((), 1)


def test_what_is_hot_is_hot_among_the_instances_of_its_model():
    few = {m.instance_id: m for m in (member("a", model="chat"), member("b", model="chat"))}
    many = few | {f"c{i}": member(f"c{i}", model="code") for i in range(40)}
    of_code = tuple(Sent("c0", tuple(hash_trace_ids([1, 100 + i]))) for i in range(2000))
    news = []
    for members in (few, many):
        depths = AgreedDepths({"": SchedulerConfig()})
        depths.resize(members)
        depths.observe(of_code, members)
        depths.observe(crowd("a"), members)
        news.append(dict(depths.news(0)[""].depths))
    assert news[0] == {hash_trace_ids([0])[0]: 2}
    assert news[1] == news[0] | {hash_trace_ids([1])[0]: 2}


def test_prompts_of_instances_that_are_gone_do_not_count():
    assert agreed_on("nobody").news(0) == {}


def test_gateways_form_the_same_keys_of_what_they_agreed_on_whatever_each_has_seen():
    news = agreed_on().news(0)[""]
    saw_nothing, saw_others = PrefixKeys(1, 64), PrefixKeys(1, 64)
    for i in range(4 * MIN_CROWD):
        saw_others.observe(tuple(hash_trace_ids([7, 300 + i])))
    for keys in (saw_nothing, saw_others):
        assert keys.agree(news.epoch, news.depths, news.homes)
    for ids in ([0, 1], [0, 2], [5]):
        prompt = tuple(hash_trace_ids(ids))
        assert saw_nothing.observe(prompt) == saw_others.observe(prompt)
    assert saw_nothing.observe(tuple(hash_trace_ids([0, 1]))).depth == 2
    assert not saw_nothing.agree(news.epoch, (), ())


def test_a_restarted_fleet_goes_on_from_what_the_gateways_use():
    news = agreed_on().news(0)
    restarted = AgreedDepths({"": SchedulerConfig(), "other": SchedulerConfig()})
    epoch = news[""].epoch
    restarted.adopt(epoch, news)
    assert restarted.epoch == epoch
    assert restarted.news(epoch) == {}
    assert restarted.news(0) == news


def test_homes_of_a_prompt_that_nothing_tells_apart_are_agreed_like_depths():
    alike = tuple(hash_trace_ids([0, 1, 2]))
    depths = AgreedDepths({"": SchedulerConfig(), "other": SchedulerConfig()})
    depths.resize(MEMBERS)
    for _ in range(300):
        depths.observe((Sent("a", alike),), MEMBERS)
    news = depths.news(0)
    assert news[""].homes == ((alike[-1], 4),)
    assert news["other"].homes == ()
    restarted = AgreedDepths({"": SchedulerConfig(), "other": SchedulerConfig()})
    restarted.adopt(news[""].epoch, news)
    assert restarted.news(0) == news
