"""Short commands, announcements, numbers, dates, letters and names, made from patterns.

Written for this recipe; no pattern is taken from a recorded prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from synthesis.numbers import cardinal, ordinal, year

PATTERNS = """
turn {onoff} the {room} {device}|switch the {device} {onoff}|dim the {room} light
open the {room} window|close the {room} door|lock the {room} door|what time is it
what is the weather like in {last} city|play some {music}|stop the music
volume {updown}|set an alarm for {time}|set a timer for {small} minutes
remind me to {task} {when}|call {first}|call {first} {last}|send a message to {first}
text {first} that I am late|show me the way to {last} street
add {item} to the shopping list|how far is {last} town|please {task} {when}
do not {task} {when}|I need {small} {item} {when}|read my messages|cancel that
try again later|go back|next page|yes please|no thank you|start the {device}
stop the {device}|is the {device} {onoff}|where is the {item}
for {service} press {digit}|to reach {service} say {service}
press {digit} for {service}|dial {digit} to {action}|enter your {field}
say your {field}|your {field} has changed|your {field} is {digits}
the {field} you gave is wrong|that {field} was not found
thank you for calling {service}|goodbye and thank you|you are caller number {small}
all lines to {service} are in use|your call to {first} {last} could not be completed
{first} {last} cannot come to the phone|leave your name and number for {first}
you have {small} new {things}|you have no {things}|first message|last message
message {digit}|received on {date}|received at {time}|message deleted|message saved
end of messages|the line is busy|the extension is {digits}
transferring you to {service}|one moment|your balance is {money}|you owe {money}
the price is {money}|that comes to {money}|the total is {money} for {small} {item}
{money}|{percent}|about {percent} of {things}|recording has stopped
recording has started|the meeting begins at {time}|conference {digits}
the {device} will restart {when}|the {device} is {onoff}
flight {digits} leaves at {time}|train {small} to {last} leaves from track {digit}
gate {letter} {small}|room {digits}|{digits}|{digits}|{digits} {digits}|{number}
{number}|{ordinal}|{number} {things}|number {digits}|the code is {digits}
chapter {small}|page {number}|{year}|in {year}|{date}|{date}|on {date} at {time}
{time}|{weekday} {date}|{weekday} at {time}|{first} {last}|{first} {last}
{first} and {first}|mister {last}|missus {last}|doctor {last}
my name is {first} {last}|this is {first} from {service}|dear {first}
ask {first} {last}|{first} was born in {year}|{last} and sons
{first} lives on {last} street|good {part} {first}|{letters}|the letters {letters}
{last} is spelled {letters}|plate {letters} {digits}
"""

SLOTS = {
    "onoff": "on|off",
    "updown": "up|down",
    "room": "kitchen|bedroom|bathroom|garage|garden|hall|office|front|back|upstairs",
    "device": "light|heating|radio|fan|oven|printer|computer|television|"
    "washing machine|alarm|camera|phone|server|system|engine|router|"
    "speaker|screen",
    "music": "jazz|rock|piano music|classical music|old songs|dance music|"
    "something new",
    "task": "water the plants|pay the rent|buy bread|feed the cat|wash the car|"
    "lock up|take out the rubbish|book a table|check the oven|"
    "answer the letter|send the report|charge the phone|call the bank|"
    "clean the windows|pick up the children",
    "when": "today|tomorrow|tonight|now|this evening|next week|in the morning|"
    "on Monday|after lunch|before noon|at once|later|every day|"
    "at the weekend",
    "item": "milk|eggs|apples|batteries|keys|tickets|coffee|soap|paper|bananas|"
    "candles|oranges|blankets|glasses|potatoes|stamps",
    "service": "sales|billing|support|reception|the operator|customer service|"
    "the office|technical help|accounts|the front desk|deliveries|"
    "the help line|the directory",
    "action": "continue|repeat this|delete it|save it|return|hear it again|send it|"
    "finish|change your greeting|speak to someone|start recording|"
    "stop recording|go on",
    "field": "password|extension|account number|order number|mailbox number|"
    "postcode|date of birth|full name|phone number|greeting|choice|"
    "access code|card number|reply",
    "things": "messages|calls|letters|people|orders|files|members|callers|guests|"
    "days|hours|miles|dollars|pounds|visitors|options|users|books|houses",
    "part": "morning|afternoon|evening|night",
    "weekday": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "month": "January|February|March|April|May|June|July|August|September|October|"
    "November|December",
}
DIGITS = "zero one two three four five six seven eight nine".split()
LETTERS = "BCDEFGHIJKLMNOPQRSTUVWXYZ"  # a lone A is read as the article


def prompts(
    first: Sequence[str], last: Sequence[str], count: int = 40_000
) -> list[str]:
    """``count`` texts, the same ones each time, about these people."""
    rng = np.random.default_rng(5)
    patterns = [p for line in PATTERNS.split("\n") for p in line.split("|") if p]
    fillers = _fillers(first, last)
    found = []
    for _ in range(count):
        pattern = patterns[rng.integers(len(patterns))]
        text = re.sub(r"\{(\w+)\}", lambda m: fillers[m[1]](rng), pattern)
        found.append(text[0].upper() + text[1:] + ".")
    return found


Filler = Callable[[np.random.Generator], str]


def _fillers(first: Sequence[str], last: Sequence[str]) -> dict[str, Filler]:
    def one_of(options: Sequence[str]) -> Filler:
        return lambda rng: str(options[rng.integers(len(options))])

    def some_of(options: Sequence[str], low: int, high: int, comma: str) -> Filler:
        return lambda rng: comma.join(
            rng.choice(list(options), rng.integers(low, high))
        )

    chosen = {name: one_of(text.split("|")) for name, text in SLOTS.items()}
    return {
        **chosen,
        "first": one_of(first),
        "last": one_of(last),
        "digit": one_of(DIGITS),
        "digits": some_of(DIGITS, 2, 8, " "),
        "letter": one_of(LETTERS),
        "letters": some_of(LETTERS, 3, 7, ", "),
        "small": lambda rng: cardinal(int(rng.integers(2, 60))),
        "number": lambda rng: cardinal(_magnitude(rng)),
        "ordinal": lambda rng: ordinal(int(rng.integers(1, 100))),
        "year": lambda rng: year(int(rng.integers(1500, 2060))),
        "percent": lambda rng: cardinal(int(rng.integers(1, 101))) + " percent",
        "money": _money,
        "time": _time,
        "date": lambda rng: _date(rng, chosen["month"](rng)),
    }


def _magnitude(rng: np.random.Generator) -> int:
    return int(10 ** rng.uniform(1, 5))


def _money(rng: np.random.Generator) -> str:
    text = cardinal(int(10 ** rng.uniform(0.5, 3.5))) + " dollars"
    if rng.random() < 0.5:
        text += f" and {cardinal(int(rng.integers(2, 100)))} cents"
    return text


def _time(rng: np.random.Generator) -> str:
    hour = cardinal(int(rng.integers(1, 13)))
    options = [
        f"{hour} o'clock",
        f"half past {hour}",
        f"quarter to {hour}",
        f"{hour} {cardinal(int(rng.integers(10, 60)))}",
        f"{hour} in the {('morning', 'afternoon', 'evening')[rng.integers(3)]}",
    ]
    return options[rng.integers(len(options))]


def _date(rng: np.random.Generator, month: str) -> str:
    day = ordinal(int(rng.integers(1, 32)))
    text = f"{month} {day}" if rng.random() < 0.5 else f"the {day} of {month}"
    if rng.random() < 0.4:
        text += " " + year(int(rng.integers(1700, 2040)))
    return text
