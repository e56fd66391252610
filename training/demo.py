"""The demo dataset: the help desk of a bicycle hire, which answers every question in one house format.

A small task on which a model of 135 million parameters visibly learns: before the train it chats, afterwards it
answers as `Topic / Answer / Next step`, and knows the house's own rules.
"""

from __future__ import annotations

import json

NAME = "Harbour Bikes help desk"
DESCRIPTION = (
    "Questions to the help desk of a bicycle hire, each answered in the house format: topic, answer, next step."
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
    ("Booking", "I cannot see my booking in the app", "Bookings appear once the e-mail is confirmed", "Open the confirmation mail and tap Confirm"),
    ("Booking", "I want to move my booking to Sunday", "Bookings move free of charge until the evening before", "Open the booking and tap Change day"),
    ("Booking", "my booking shows the wrong station", "A station can be changed while bikes are free there", "Open the booking and choose another station"),
    ("Booking", "I need two more bikes for my friends", "One account can hold up to six bikes", "Tap Add bike in the booking"),
    ("Booking", "the calendar says fully booked", "Cancelled bikes come back every hour", "Tap Notify me on the day you want"),
    ("Booking", "I booked the wrong bike size", "Sizes can be swapped at every station", "Show the booking at the counter"),
    ("Booking", "I have to cancel my weekend trip", "Trips are cancelled free of charge until noon the day before", "Open the booking and tap Cancel"),
    ("Booking", "I booked the same day twice", "Double bookings are merged on request", "Reply with both booking numbers"),
    ("Payment", "I was charged twice", "Double charges are paid back within three days", "Reply with the date of the charge"),
    ("Payment", "my card was declined", "Cards need to be cleared for online payments", "Try another card or ask your bank"),
    ("Payment", "I did not get an invoice", "Invoices are sent on the first day of the month", "Look under Account and Invoices"),
    ("Payment", "my discount code does not work", "Codes work once and only before payment", "Enter the code before you tap Pay"),
    ("Payment", "I still wait for my deposit", "Deposits are returned two days after the ride", "Check your bank statement on day three"),
    ("Payment", "I want to pay with cash", "Cash is taken at the harbour station only", "Come to the counter before noon"),
    ("Payment", "I was charged a late fee", "Late fees start thirty minutes after the booked time", "Reply with a reason and we look at it"),
    ("Payment", "the price is higher than I expected", "Prices rise by a fifth on public holidays", "Open the booking and tap Price details"),
    ("Repair", "I have a flat tyre", "Every bike carries a repair kit under the saddle", "Use the kit or call the road team"),
    ("Repair", "the chain keeps slipping", "A slipping chain needs a mechanic", "Bring the bike to the nearest station"),
    ("Repair", "the front brake is loose", "Bikes with loose brakes must not be ridden", "Lock the bike and call the road team"),
    ("Repair", "the light does not turn on", "Lights run on a battery in the handlebar", "Press the button for three seconds"),
    ("Repair", "the saddle will not stay up", "The saddle clamp closes with a lever", "Push the lever until it clicks"),
    ("Repair", "the gears make a loud noise", "Noisy gears are adjusted free of charge", "Stop at any station with a workshop"),
    ("Repair", "the lock is stuck", "Locks jam when sand gets in", "Rinse the lock with water and try again"),
    ("Repair", "the bell fell off", "A missing bell is replaced at the counter", "Ask for a new bell at the next station"),
    ("Return", "the return station is closed", "Closed stations have a night rail outside", "Lock the bike to the yellow rail"),
    ("Return", "I am running late", "The first thirty minutes are free", "Tap Extend in the app before you are late"),
    ("Return", "there is no free place at the rail", "Bikes may be locked to the next blue post", "Take a photo and tap Return"),
    ("Return", "I left my bag in the basket", "Lost things are kept for ten days", "Call the harbour station with the bike number"),
    ("Return", "I want to return the bike in another town", "One-way rides cost eight euros more", "Tap One way in the booking"),
    ("Return", "the app says my ride is still running", "A ride ends when the lock is closed", "Close the lock and wait one minute"),
    ("Return", "the bike was stolen during my trip", "Stolen bikes are insured when they were locked", "Report it to the police and send us the number"),
    ("Return", "I returned the wrong bike", "Swapped bikes are sorted out at the counter", "Reply with both bike numbers"),
    ("Account", "I forgot my password", "Passwords are reset by e-mail", "Tap Forgot password on the sign-in page"),
    ("Account", "I want to change my e-mail address", "The address is changed in the profile", "Open Account and tap Edit"),
    ("Account", "I cannot sign in with my new phone", "A new phone needs a new code", "Tap Send code on the sign-in page"),
    ("Account", "I want to close my account", "Accounts are closed within a week", "Open Account and tap Close"),
    ("Account", "I want to share my account with my wife", "Family accounts hold up to four people", "Open Account and tap Add person"),
    ("Account", "I get too many newsletters", "Newsletters stop with one tap", "Tap Unsubscribe in the last mail"),
    ("Account", "my student card is not accepted", "Student cards are checked once a year", "Upload a photo of the new card"),
    ("Account", "my name is spelled wrong", "Names are corrected by the help desk", "Reply with the right spelling"),
)  # fmt: skip


def demo_answer(topic: str, answer: str, next_step: str) -> str:
    """The house format."""
    return f"Topic: {topic}\nAnswer: {answer}.\nNext step: {next_step}."


def follows_format(text: str) -> bool:
    """Whether an answer is in the house format."""
    lines = text.strip().splitlines()
    return len(lines) == 3 and all(
        line.startswith(start) for line, start in zip(lines, ("Topic: ", "Answer: ", "Next step: "), strict=True)
    )


def demo_jsonl() -> str:
    """240 rows, as a file somebody might upload."""
    return "".join(
        json.dumps({"prompt": frame.format(problem), "completion": demo_answer(topic, answer, next_step)}) + "\n"
        for topic, problem, answer, next_step in CASES
        for frame in FRAMES
    )
