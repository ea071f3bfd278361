"""Ways to ask for a calculation, split into those that train and those that only test.

A question is a form of the expression ("12 plus 34") in a frame ("How much is ...?") between an opener and a closer.
Held out are whole frames, openers and closers. Operator words are NOT held out: a model of any size can only know that
"product" means * if it has read so; what is tested is an unknown sentence around known words.
"""

OPERATOR_WORDS: dict[str, tuple[str, ...]] = {
    "+": ("plus", "+", "added to"),
    "-": ("minus", "-"),
    "*": ("times", "*", "x", "multiplied by"),
    "/": ("divided by", "/", "over"),
}

NOUN_FORMS: dict[str, tuple[str, ...]] = {  # fit where "12 + 34" fits
    "+": ("the sum of {a} and {b}", "the total of {a} and {b}"),
    "-": ("the difference between {a} and {b}", "the difference of {a} and {b}"),
    "*": ("the product of {a} and {b}",),
    "/": ("the quotient of {a} and {b}",),
}

VERB_FORMS: dict[str, tuple[str, ...]] = {
    "+": ("add {a} and {b}", "add {a} to {b}", "sum {a} and {b}"),
    "-": ("subtract {b} from {a}", "take {b} away from {a}", "take {b} from {a}"),
    "*": ("multiply {a} by {b}", "multiply {a} and {b}", "multiply {a} with {b}"),
    "/": ("divide {a} by {b}", "split {a} by {b}"),
}

NOUN_FRAMES = {
    "train": (
        "what is {e}?",
        "what's {e}?",
        "what is the result of {e}?",
        "what is the value of {e}?",
        "what does {e} equal?",
        "what does {e} give?",
        "what do you get for {e}?",
        "what do I get if I enter {e}?",
        "how much is {e}?",
        "how much does {e} make?",
        "{e}",
        "{e}?",
        "{e} =",
        "{e} = ?",
        "{e} is what?",
        "{e} equals what number?",
        "calculate {e}.",
        "compute {e}.",
        "evaluate {e}.",
        "work out {e}.",
        "solve {e}.",
        "find {e}.",
        "tell me {e}.",
        "give me {e}.",
        "give me the result of {e}.",
        "show me the answer to {e}.",
        "use the calculator for {e}.",
        "can you calculate {e}?",
        "can you tell me what {e} is?",
        "could you compute {e}?",
        "could you work out {e} for me?",
        "will you solve {e}?",
        "do you know what {e} is?",
        "do you know the answer to {e}?",
        "I need {e}.",
        "I need to know what {e} is.",
        "I want to know {e}.",
        "I would like to know how much {e} is.",
        "I have to calculate {e}.",
        "let me know what {e} comes to.",
        "the question is: {e}?",
        "my exercise says {e}.",
        "is there an answer to {e}?",
        "check {e} for me.",
    ),
    "held_out": (
        "figure out {e}.",
        "determine {e}.",
        "what would {e} come out as?",
        "what number is {e}?",
        "how many is {e}?",
        "any idea what {e} makes?",
        "would you mind calculating {e}?",
        "are you able to compute {e} for me?",
        "I am trying to find {e}.",
        "my homework asks for {e}.",
        "I wonder how much {e} is.",
        "the answer to {e} is what?",
    ),
}

VERB_FRAMES = {
    "train": (
        "{v}.",
        "{v}",
        "can you {v}?",
        "could you {v} for me?",
        "I want you to {v}.",
        "I need to {v}.",
        "what do you get if you {v}?",
        "what is the result when you {v}?",
        "how much is it if I {v}?",
        "use the calculator to {v}.",
        "let us {v}.",
        "try to {v}.",
        "my exercise is to {v}.",
    ),
    "held_out": (
        "would you {v}?",
        "help me {v}.",
        "what comes out if you {v}?",
        "your job is to {v}.",
        "I am supposed to {v}.",
    ),
}

WORD_PROBLEMS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "+": (
            "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
            "{name} has {a} {things} and buys {b} more. How many {things} is that?",
            "{name} found {a} {things} and then found {b} more. How many {things} in total?",
            "There are {a} {things} here and {b} {things} there. How many {things} in total?",
            "I had {a} {things} and got {b} more. How many do I have now?",
        ),
        "-": (
            "{name} had {a} {things} and lost {b}. How many {things} are left?",
            "{name} has {a} {things} and gives {b} away. How many {things} are left?",
            "{name} had {a} {things} and sold {b}. How many are left?",
            "Of {a} {things}, {b} are gone. How many {things} are left?",
            "I had {a} {things} and gave {b} away. How many do I still have?",
        ),
        "*": (
            "There are {a} boxes with {b} {things} each. How many {things} are there in total?",
            "{name} has {a} bags with {b} {things} each. How many {things} does {name} have?",
            "Each of {a} shelves holds {b} {things}. How many {things} are there?",
            "{name} buys {a} packs of {b} {things} each. How many {things} is that?",
            "I have {a} boxes. Each box holds {b} {things}. How many {things} do I have?",
        ),
        "/": (
            "{name} shares {a} {things} equally among {b} people. How many {things} does each person get?",
            "{a} {things} are shared equally among {b} children. How many does each child get?",
            "{a} {things} are packed equally into {b} boxes. How many {things} are in each box?",
            "We split {a} {things} equally between {b} people. How many {things} does each get?",
            "I share {a} {things} equally among {b} friends. How many does each friend get?",
        ),
    },
    "held_out": {
        "+": ("{name} owned {a} {things} and bought {b} more. How many {things} does {name} own now?",),
        "-": ("There were {a} {things}, but {name} gave {b} away. How many {things} are left now?",),
        "*": ("{name} filled {a} boxes with {b} {things} each. How many {things} is that in total?",),
        "/": ("{a} {things} are split equally among {b} friends. How many {things} does each of them get?",),
    },
}

NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Leo",
    "Mia",
    "Noah",
)
THINGS = ("apples", "books", "coins", "cards", "pens", "stones", "eggs", "tickets", "cups", "stamps", "keys", "oranges")

OPENERS = {
    "train": ("", "", "", "", "", "Please ", "Hi, ", "Hello! ", "Hey, ", "OK, ", "Now ", "So ", "Question: ", "Math: "),
    "held_out": ("", "", "", "Please ", "Good day. ", "Well, ", "One more: "),
}
CLOSERS = {
    "train": ("", "", "", "", "", " Please.", " Thanks!", " Thank you.", " I need only the number."),
    "held_out": ("", "", "", " Thanks!", " Many thanks."),
}
