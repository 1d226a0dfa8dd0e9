"""Runs that once broke a promise, by what was wrong. Each is as small as it could be made."""

import pytest

from tests.sim.plan import read
from tests.sim.runtime import LOOPS, Loop
from tests.sim.simulate import simulate

RUNS = {
    "a session whose clock was behind the log's was begun again for ever": (
        '[2075868179,[["both",0]],[[0.1,"skew",3,0.05,1],[2.5,"session_terminated",4,2.5,1]],true,60]'
    ),
    "the last entry of an unrelated tape was claimed and never delivered": (
        '[2967,[["listener",0],["both",0]],[[0.5,"block_redis",5,2.5,1]],true,1000,false]'
    ),
    "a deaf subscription was never opened anew": (
        '[0,[["listener",0],["worker",0]],[[0.5,"wire_deaf",0,0.05,0]],true,1000,true]'
    ),
    "a log that nobody writes was joined": (
        '[0,[["both",0]],[[0.5,"redis_readonly",0,5.0,0],[0.01,"kill",0,0.05,0],[0.5,"postgres_stall",0,0.05,0],'
        '[0.0,"wire_cut",0,0.05,0]],true,1000,true]'
    ),
    "late events were kept from those who were told of their gap": (
        '[1073741823,[["worker",0],["listener",0]],[[0.1,"postgres_restart",0,0.8,0],[0.5,"garbage",0,0.05,0],'
        '[0.5,"trim",0,0.05,0],[0.1,"slow_postgres",0,0.05,0],[0.5,"wire_silent",0,0.05,0],'
        '[0.5,"redis_restart",0,0.05,0]],true,1000,true]'
    ),
    "what earlier terms of the log brought was not marked late": (
        '[0,[["worker",0],["listener",0]],[[0.0,"wire_deaf",0,0.05,0],[2.5,"garbage",0,0.05,0],'
        '[0.0,"postgres_restart",0,0.05,0]],true,1000,true]'
    ),
    "a log that was behind was given up, and one gap announced twice": (
        '[0,[["both",0],["both",0]],[[2.5,"join",0,0.05,0],[0.0,"redis_oom",0,1.5,0],[0.5,"postgres_restart",0,0.05,0],'
        '[0.01,"redis_loading",0,5.0,0],[0.5,"postgres_restart",5,0.05,1],[0.1,"postgres_restart",5,1.5,10]],'
        "true,1000,true]"
    ),
    "a gap was announced again for a log that had lost its newest entries": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[1.0,"big_burst",0,0.05,0],[0.0,"session_cut",0,0.05,0],'
        '[0.5,"big_burst",0,0.05,0],[0.5,"forget_newest",0,0.05,10]],true,1000,false]'
    ),
    "a break in the log that was heard beside it was announced as a gap": (
        '[2,[["worker",0],["listener",0],["both",1]],[[2.5,"wire_deaf",1,0.05,0],[1.0,"end",1,0.05,0],[1.0,"end",1,0.05,0]],'
        "true,1000,true]"
    ),
    "a backlog that was cut left the process's own feed behind its end": (
        '[0,[["listener",0],["worker",0],["both",1]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,40],[0.0,"redis_restart",0,0.8,0]],'
        "true,1000,true]"
    ),
    "a session of an earlier clock kept a worker from the log for ever": (
        '[0,[["listener",0],["worker",0]],[[0.1,"wire_cut",0,0.05,0],[0.01,"postgres_restart",0,2.5,0],'
        '[0.5,"skew",0,0.05,0]],true,1000,true]'
    ),
    "an emptied log was never begun again by a tape that began with an older session": (
        '[453,[["listener",0],["both",0],["worker",0],["listener",0]],[[0.5,"session_terminated",3,5.0,1],[0.'
        '0,"session_terminated",0,0.8,3],[0.1,"postgres_stall",5,2.5,40],[0.0,"postgres_restart",0,2.5,1],[1.'
        '0,"leave",0,1.5,3],[0.5,"redis_oom",4,1.5,0],[0.1,"flush",0,1.5,1]],true,20,true]'
    ),
    "the tape of a session that was lost was taken for what comes next": (
        '[18766962,[["both",0],["worker",0],["listener",0],["listener",0],["both",1]],'
        '[[1.0,"postgres_restart",0,0.8,0],[1.0,"postgres_restart",0,0.3,0]],true,1000,false]'
    ),
    "the log joined although another session had been opened beside it meanwhile": (
        '[212,[["listener",0],["both",0],["both",0],["both",0],["both",1]],[[0.0,"big_burst",0,0.05,0],[0.0,"'
        'slow_postgres",0,0.05,40],[0.1,"big_burst",0,0.05,0],[0.1,"evict",0,0.05,0],[0.1,"big_burst",0,0.05,'
        '40],[0.1,"redis_stall",0,0.8,0],[0.1,"redis_oom",0,0.8,0]],true,1000,true]'
    ),
    "a cursor took late events from behind a break in the log for all of their gap": (
        '[186,[["worker",0],["listener",0],["both",1]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.1,"big_burst",0,0.05,0],[0.0,"redis_restart",0,0.05,0],[1.0,"session_cut",0,0.05,0],[0.5,"kill",1,0.05,0],'
        '[0.5,"end",1,0.3,0],[0.0,"postgres_stall",0,1.5,0]],true,1000,false]'
    ),
    "a position was looked for in a session that it is not related to": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.5,"redis_restart",0,2.5,0],[0.1,"big_burst",0,0.05,0],[0.0,"session_cut",1,0.05,0]],true,1000,false]'
    ),
    "the end of a gap that had left the history was taken for a new gap": (
        '[55,[["listener",0],["worker",0],["both",1]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.1,"big_burst",0,0.05,0],[0.0,"redis_loading",0,5.0,0]],true,20,false]'
    ),
    "a late event stood for earlier ones of its gap that the log had trimmed": (
        '[1,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"postgres_refuse",0,0.05,0],'
        '[2.5,"redis_loading",0,1.5,0]],true,20,false]'
    ),
    "what came directly stood for what the log brought later, once both were related": (
        '[994,[["worker",0],["worker",0],["worker",0],["listener",0],["both",1]],[[2.5,"evict",1,0.05,0],'
        '[1.0,"big_burst",0,0.05,0],[1.0,"big_burst",0,0.05,0],[0.0,"block_redis",1,0.8,0],'
        '[1.0,"redis_loading",0,2.5,0]],true,1000,false]'
    ),
    "a client subscribed far behind the commits, at a position of which no other one had heard": (
        '[1,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"redis_oom",0,1.5,0],[0.5,"big_burst",0,0.05,0],[0.5,"session_cut",0,0.05,0],'
        '[1.0,"big_burst",0,0.05,0],[1.0,"wire_cut",0,0.05,0]],true,1000,false]'
    ),
    "a term was taken for an old one because the clock had been set back": (
        '[100,[["worker",0],["worker",0],["listener",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[1.0,"redis_oom",0,5.0,0],[2.5,"big_burst",0,0.05,0],[0.0,"end",1,0.05,0],'
        '[0.0,"skew",3,0.05,0]],true,1000,true]'
    ),
    "an emptied log that was begun anew with a lower term was never joined": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"kill",0,0.05,0],'
        '[0.0,"redis_restart",0,0.05,0],[0.0,"skew",0,0.05,0]],true,1000,true]'
    ),
    "an emptied log that was begun anew with a lower term, which was related to the one before, was never joined": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.01,"skew",0,0.05,0],'
        '[0.01,"redis_restart",0,0.3,0],[0.5,"big_burst",0,0.05,0],[0.0,"kill",0,0.05,0]],true,1000,false]'
    ),
    "the first of two gaps stood for both, and the second one was lost on its way": (
        '[779584800,[["worker",0],["worker",0],["both",0],["worker",0],["both",1]],[[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"redis_restart",0,0.05,0],[0.0,"session_silent",0,0.05,0],[1.0,"big_burst",0,0.05,0]],true,1000,true]'
    ),
    "a marker of other channels related sessions that are not": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.01,"garbage",3,0.05,0],[0.5,"kill",0,0.05,0],'
        '[0.5,"garbage",3,0.05,0]],true,1000,false]'
    ),
    "a packet that waited overtook a slow one": (
        '[3,[["listener",0],["worker",0],["both",1]],[[0.0,"big_burst",0,0.05,0],[0.1,"slow_postgres",0,0.05,40],'
        '[0.1,"block_postgres",0,0.3,0]],true,1000,false]'
    ),
    "a client of another pod was told again what it had heard behind a gap": (
        '[318,[["listener",0],["worker",0,0],["worker",0,0],["listener",0],["worker",0,3]],[[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,3],[1.0,"kill",0,0.05,0],[0.5,"big_burst",0,0.05,0],'
        '[0.0,"kill",0,0.3,0]],false,1000,false]'
    ),
    "what probes had shown was learned only where something was notified": (
        '[282,[["listener",0],["worker",0,0],["worker",0,0],["worker",0,0],["listener",0],["worker",0,4]],'
        '[[0.5,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,40],[0.0,"pause",0,2.5,0],'
        '[2.5,"session_terminated",1,0.05,0]],false,1000,true]'
    ),
    "a packet in memory overtook another one": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],'
        '[0.0,"big_burst",0,0.05,0],[0.01,"big_burst",0,0.05,0],[0.0,"block_postgres",1,0.8,0],'
        '[0.5,"slow_postgres",1,0.3,10]],false,1000,false]'
    ),
    "what was read a second time after the log had lost its newest entries led back behind what had been delivered": (
        '[0,[["listener",0],["worker",0]],[[0.0,"big_burst",0,0.05,0],[0.0,"big_burst",0,0.05,0],[0.5,"big_burst",0,0.05,0],'
        '[0.5,"session_cut",0,0.05,0],[1.0,"forget_newest",0,0.05,10],[0.0,"block_postgres",0,1.5,0]],true,1000,false]'
    ),
}

NO_FINAL_GAP = {
    "a worker that began without the log did not know what the log held before": (
        '[0,[["both",0],["worker",0],["listener",0]],[[0.01,"wire_deaf",1,0.05,0]],true,1000,false]'
    ),
    "the relation of a session that gave positions was not told to other workers": (
        '[0,[["both",0],["listener",0],["worker",0],["worker",0]],[[1.0,"block_redis",0,2.5,0]],true,1000,false]'
    ),
    "the log joined before it had come to the marker of a session opened meanwhile": (
        '[5,[["listener",0],["listener",0],["worker",0]],[[0.0,"wire_deaf",0,0.05,0]],true,1000,true]'
    ),
    "a worker that began without the log gave up what the log brought later": (
        '[93,[["worker",0],["both",0],["worker",0],["both",0]],[[0.0,"redis_readonly",0,5.0,0]],true,1000,false]'
    ),
    "the history of a worker began behind the marker, and not before it": (
        '[0,[["both",0],["worker",0],["listener",0]],[[0.0,"redis_oom",0,5.0,0]],true,1000,false]'
    ),
    "an emptied log was begun anew by a listener that had just come": (
        '[0,[["both",0],["listener",0],["worker",0]],[[0.5,"kill",1,1.5,0],[1.0,"wire_cut",2,0.05,0],'
        '[0.5,"flush",0,0.05,0]],true,1000,true]'
    ),
    "a worker that began without its pod's listener did not know what that had heard before": (
        '[0,[["listener",0],["worker",0,0],["worker",0,0],["worker",0,0],["listener",0],["worker",0,4]],'
        '[[0.0,"block_pod",5,5.0,0]],false,1000,false]'
    ),
}

NO_GAP_AT_ALL = {
    "a tape of nothing but its marker did not begin an emptied log": (
        '[0,[["both",0],["both",0]],[[0.01,"redis_restart",0,0.05,0]],true,1000,false]'
    ),
    "an empty timeline of the relay was not shared with its process": (
        '[282,[["both",0],["both",0]],[[0.5,"wire_cut",0,5.0,10]],true,1000,true]'
    ),
    "the log's relations were read too late": (
        '[0,[["both",0],["both",0]],[[0.5,"redis_stall",0,2.5,0]],true,1000,true]'
    ),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("plan", RUNS.values(), ids=RUNS)
def test_nothing_is_broken(plan: str, loop: Loop) -> None:
    assert simulate(read(plan), loop).violations == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("plan", NO_GAP_AT_ALL.values(), ids=NO_GAP_AT_ALL)
def test_a_process_with_its_own_listener_loses_redis_without_any_gap(plan: str, loop: Loop) -> None:
    result = simulate(read(plan), loop)
    assert result.violations == []
    assert result.gaps == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("plan", NO_FINAL_GAP.values(), ids=NO_FINAL_GAP)
def test_what_failed_is_recovered_in_full(plan: str, loop: Loop) -> None:
    result = simulate(read(plan), loop)
    assert not result.violations
    assert not result.final_gaps
