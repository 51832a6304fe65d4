"""The order of the folders, bottom up: a file imports from its own entry and from entries before it, never from one
behind it. tests/test_layers.py reads the imports.

An entry is a folder or a file without its ending, from the root; of several that fit, the longest one counts. A file
belongs to its own folder's entry: `scheduler` has the rules that stand flat, not what is in its folders.
"""

LAYERS = (
    "src/dualmap/__init__",
    "scheduler",
    "scheduler/instance",
    "scheduler/placement",  # rules that weigh instances
    "scheduler/admission",
    "scheduler/steal",
    "scheduler/recheck_move",
    "scheduler/take_snapshot",
    "scheduler/policies",
    "scheduler/fleet",
    "scheduler/core",
    "scheduler/cells",  # in front of several cores
    "scheduler/__init__",  # the public names: for everybody else, not for files of the scheduler
    "router/__init__",
    "router/http",
    "instances",
    "instances/kv_events",
    "instances/server",
    "instances/simulated",
    "instances/simulated/apis",
    "instances/simulated/server",  # its table names all APIs
    "instances/simulated/cli",
    "instances/watcher",
    "instances/calibrate",
    "instances/actor",
    "router/tokens",
    "router/journal",
    "router/reach",
    "router/local",
    "router/fleet",
    "router/access",
    "router/observe",
    "router/scaling",
    "router/apis",
    "router/legs",
    "router/requests",
    "router/config",
    "router/envoy",
    "router/gateway",
    "router/deployment",
    "router/cli",
    "loadtest",
    "loadtest/traces",
    "loadtest/replay",
    "loadtest/formats",
    "loadtest/reports",
    "loadtest/histories",
    "loadtest/virtual",
    "loadtest/study",
    "loadtest/plan",
    "loadtest/harm",
    "loadtest/overhead",
    "loadtest/parsing",
    "loadtest/cli",
    "loadtest/experiments",
    "router/cli/main",  # names the commands of all folders, and imports one when it is called
    "src/dualmap/__main__",
)

MOST_LINES = 400
