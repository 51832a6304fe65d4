"""Requests and tokens a minute."""

import pytest

from dualmap.router.access.rate_limit import Bucket, RateLimit


def limit_of(requests: float | None = None, tokens: float | None = None) -> RateLimit:
    return RateLimit(Bucket(requests, 0.0), Bucket(tokens, 0.0))


def test_a_minutes_worth_is_there_at_first_and_comes_back_evenly():
    limit = limit_of(requests=60)
    for _ in range(60):
        assert limit.retry_after_s(10, 0.0) is None
        limit.take(10, 0.0)
    assert limit.retry_after_s(10, 0.0) == pytest.approx(1.0)
    assert limit.retry_after_s(10, 0.75) == pytest.approx(0.25)
    assert limit.retry_after_s(10, 1.0) is None


def test_tokens_are_counted_apart_and_the_longer_wait_is_told():
    limit = limit_of(requests=60, tokens=600)
    limit.take(500, 0.0)
    assert limit.retry_after_s(100, 0.0) is None
    assert limit.retry_after_s(150, 0.0) == pytest.approx(5.0)


def test_a_prompt_of_more_than_a_minute_waits_for_a_full_bucket_not_for_ever():
    limit = limit_of(tokens=600)
    assert limit.retry_after_s(10_000, 0.0) is None
    limit.take(10_000, 0.0)
    assert limit.retry_after_s(1, 0.0) == pytest.approx((10_000 - 600 + 1) / 10)


def test_answers_that_were_longer_than_what_is_left_overdraw():
    limit = limit_of(tokens=600)
    limit.take(100, 0.0)
    limit.tokens.take(800, 0.0)
    assert limit.retry_after_s(1, 0.0) == pytest.approx(30.1)
    assert b"x-ratelimit-remaining-tokens: 0\r\n" in limit.header_lines(0.0)


def test_headers_are_openais_and_only_for_what_is_limited():
    limit = limit_of(requests=120, tokens=6000)
    limit.take(1500, 0.0)
    assert limit.header_lines(0.0).decode().splitlines() == [
        "x-ratelimit-limit-requests: 120",
        "x-ratelimit-remaining-requests: 119",
        "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-tokens: 6000",
        "x-ratelimit-remaining-tokens: 4500",
        "x-ratelimit-reset-tokens: 15s",
    ]
    assert limit_of().header_lines(0.0) == b""


def test_several_gateways_grant_their_share_each():
    limit = limit_of(requests=60)
    limit.set_share(0.25)
    for _ in range(15):
        assert limit.retry_after_s(0, 0.0) is None
        limit.take(0, 0.0)
    assert limit.retry_after_s(0, 0.0) == pytest.approx(4.0)
