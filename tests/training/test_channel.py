import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.training.channel import Channel, LostError, free_port, interface_towards

MESSAGES = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3)


@given(st.lists(MESSAGES, max_size=5))
def test_messages_arrive_whole_and_in_order_and_then_the_end_shows(messages):
    one, two = socket.socketpair()
    with one, two:
        sender, receiver = Channel(one), Channel(two)
        for message in messages:
            sender.send(message)
        assert [receiver.receive(1.0) for _ in messages] == messages
        assert receiver.receive(0) is None
        one.close()
        with pytest.raises(LostError):
            receiver.receive(1.0)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"[1, 2]\n", b"half a line"])
def test_what_is_no_message_is_a_lost_connection(said):
    one, two = socket.socketpair()
    with one, two:
        one.sendall(said)
        one.close()
        with pytest.raises(LostError):
            Channel(two).receive(1.0)


def test_a_free_port_can_be_used():
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1"))):
        pass


def test_the_interface_that_leads_to_this_machine_is_the_loopback():
    assert interface_towards("127.0.0.1") in ("lo", "lo0")
    assert interface_towards("no such name.invalid") is None
