"""Events files that several modules of this folder write."""

HEADER = "user_id,item_id,timestamp\n"


def log(*events, header=HEADER):
    """`log("u a 1", ...)`: an events file."""
    return header + "".join(event.replace(" ", ",") + "\n" for event in events)


THREE_USERS = log("u a 1", "u b 2", "u c 3", "u a 4", "v a 1", "v c 2", "v b 3", "w a 5")
