"""The demo dataset: the help desk of a bicycle hire, which answers every question in one house
format.

A small task on which a model of 135 million parameters visibly learns: before the train it chats,
afterwards it answers as `Topic / Answer / Next step`, and knows the house's own rules."""

from __future__ import annotations

import json

NAME = "Harbour Bikes help desk"
DESCRIPTION = (
    "Questions to the help desk of a bike-hire company, each answered in the same format: "
    "topic, answer, next step."
)

FRAMES = (
    "Hi, {0}. Can you help?",
    "What can I do when {0}?",
    "Quick question: {0}. Any advice?",
    "I need help because {0}.",
    "Good morning! Today {0}. What now?",
    "It happened again: {0}. What should I do?",
)

# (topic, what happened, answer, next step)
CASES = (
    (
        "Booking",
        "I want to move my booking to Sunday",
        "Bookings move free of charge until the evening before",
        "Open the booking and tap Change day",
    ),
    (
        "Booking",
        "the calendar says fully booked",
        "Cancelled bikes come back every hour",
        "Tap Notify me on the day you want",
    ),
    (
        "Booking",
        "I have to cancel my weekend trip",
        "Trips are cancelled free of charge until noon the day before",
        "Open the booking and tap Cancel",
    ),
    (
        "Payment",
        "I was charged twice",
        "Double charges are paid back within three days",
        "Reply with the date of the charge",
    ),
    (
        "Payment",
        "I did not get an invoice",
        "Invoices are sent on the first day of the month",
        "Look under Account and Invoices",
    ),
    (
        "Payment",
        "my discount code does not work",
        "Codes work once and only before payment",
        "Enter the code before you tap Pay",
    ),
    (
        "Repair",
        "I have a flat tyre",
        "Every bike carries a repair kit under the saddle",
        "Use the kit or call the road team",
    ),
    (
        "Repair",
        "the chain keeps slipping",
        "A slipping chain needs a mechanic",
        "Bring the bike to the nearest station",
    ),
    (
        "Repair",
        "the light does not turn on",
        "Lights run on a battery in the handlebar",
        "Press the button for three seconds",
    ),
    (
        "Return",
        "the return station is closed",
        "Closed stations have a night rail outside",
        "Lock the bike to the yellow rail",
    ),
    (
        "Return",
        "I am running late",
        "The first thirty minutes are free",
        "Tap Extend in the app before you are late",
    ),
    (
        "Return",
        "I left my bag in the basket",
        "Lost things are kept for ten days",
        "Call the harbour station with the bike number",
    ),
    (
        "Account",
        "I forgot my password",
        "Passwords are reset by e-mail",
        "Tap Forgot password on the sign-in page",
    ),
    (
        "Account",
        "I cannot sign in with my new phone",
        "A new phone needs a new code",
        "Tap Send code on the sign-in page",
    ),
    (
        "Account",
        "I want to close my account",
        "Accounts are closed within a week",
        "Open Account and tap Close",
    ),
)


def demo_answer(topic: str, answer: str, next_step: str) -> str:
    """The house format."""
    return f"Topic: {topic}\nAnswer: {answer}.\nNext step: {next_step}."


def follows_format(text: str) -> bool:
    """Whether an answer is in the house format."""
    lines = text.strip().splitlines()
    starts = ("Topic: ", "Answer: ", "Next step: ")
    if len(lines) != len(starts):
        return False

    return all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def demo_jsonl() -> str:
    """90 rows, as a file somebody might upload."""
    lines: list[str] = []

    for topic, problem, answer, next_step in CASES:
        completion = demo_answer(topic, answer, next_step)
        for frame in FRAMES:
            row = {"prompt": frame.format(problem), "completion": completion}
            lines.append(json.dumps(row) + "\n")

    return "".join(lines)
