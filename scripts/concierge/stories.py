"""Stories for children: requests derived from real stories, and simple stories put together by a program.

The corpus has fewer than a thousand stories, too few to learn how a request shapes a story. The built ones supply the
plain plots; the real ones keep the language natural.
"""

from __future__ import annotations

import random
import re
from collections import Counter

from chat import Message, assistant, user
from entities import BOYS, GIRLS
from wordlist import items

ANIMALS = items("""ant|bear|bee|bird|bunny|butterfly|cat|chicken|cow|crab|deer|dog|dolphin|dragon|duck|eagle
elephant|fish
fox|frog|goat|hamster|hen|horse|kitten|lamb|lion|lizard|monkey|mouse|owl|parrot|penguin|pig|pony|puppy|rabbit|sheep
snail|spider|squirrel|tiger|turtle|whale|wolf|zebra""")
THINGS = items("""apple|ball|balloon|banana|basket|bed|bell|bicycle|bike|blanket|boat|book|bottle|bowl|box
bracelet|bread
bridge|bucket|bus|cake|camera|candle|car|carrot|castle|chair|clock|cloud|coat|coin|cookie|crayon|cup|doll|door|dress
drum|egg|feather|fence|flag|flower|forest|garden|gift|glass|guitar|hammer|hat|helmet|honey|house|ice cream|jacket|jar
key|kite|ladder|lake|lamp|leaf|lemon|letter|lollipop|map|medal|mirror|moon|mountain|mud|necklace|needle|nest|ocean
orange|paint|park|pencil|piano|picture|pie|pizza|plane|pond|pumpkin|puzzle|rainbow|ribbon|river|robot|rock|rocket|rope
sandwich|scarf|school|shell|ship|shoe|shovel|sled|snow|snowman|soap|sock|soup|spoon|star|stick|stone|storm|swing|tent
toy|tower|train|treasure|tree|truck|umbrella|vase|wagon|watch|water|wheel|whistle|window|yarn""")
PEOPLE = items("girl|boy|king|queen|princess|prince|fairy|witch|farmer|doctor|teacher|grandma|baby|clown|pirate|knight")
NAMES = set(GIRLS + BOYS)

ASKS = (
    "Tell me a story about {x}.", "Tell me a story about {x}.",
    "Can you tell me a story about {x}?", "Write a story about {x}.",
    "Please tell me a short story about {x}.",
    "I want to hear a story about {x}.", "Tell me a bedtime story about {x}.",
    "Write a short story about {x} for my kids.", "tell me a story about {x}", "A story about {x}, please.",
    "Could you write a story for children about {x}?", "Do you know a story about {x}?", "Make up a story about {x}.",
)  # fmt: skip
OPEN_ASKS = (
    "Tell me a story.", "Tell me a story",
    "Can you tell me a story?", "Tell me a bedtime story.", "Write a short story.",
    "I want to hear a story.", "Do you know a story?", "tell me a story", "Please tell me a story for children.",
    "Another story, please.", "Tell me a short story.",
)  # fmt: skip
LEAD_INS = ("Sure! Here is a story about {x}.", "Here is a story about {x}.", "Of course! This is a story about {x}.")


def with_article(noun: str) -> str:
    """Return a noun with its article."""
    if noun in ("bread", "honey", "ice cream", "mud", "snow", "soap", "soup", "water", "yarn", "paint"):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def topics(story: str) -> list[str]:
    """Return what a story is about: characters first, then things that come up again."""
    low = story.lower()
    counts = Counter(re.findall(r"[a-z]+", low))
    opening = " ".join(low.split()[:40])
    found = []
    for match in re.finditer(r"\b(?:named|called) ([A-Z][a-z]+)", story):
        found.append(match.group(1))
    for noun in (*ANIMALS, *PEOPLE, *THINGS):
        often = counts[noun] + counts[noun + "s"] if " " not in noun else low.count(noun)
        if often >= 3 or (often >= 2 and re.search(rf"\b{noun}\b", opening)):
            found.append(with_article(noun))
    return list(dict.fromkeys(found))


def rename_characters(story: str, rng: random.Random) -> str:
    """Give the characters of a story other names of the same sort."""
    words = re.findall(r"\b[A-Z][a-z]+\b", story)
    present = [name for name in dict.fromkeys(words) if name in NAMES]
    free = {True: [n for n in GIRLS if n not in present], False: [n for n in BOYS if n not in present]}
    table = {}
    for name in present:
        pool = free[name in GIRLS]
        table[name] = pool.pop(rng.randrange(len(pool)))
    return re.sub(r"\b[A-Z][a-z]+\b", lambda m: table.get(m.group(), m.group()), story)


def subject(found: list[str], rng: random.Random) -> str:
    """Return the subject that a user asks for: one or two of the topics."""
    pair = rng.sample(found, 2) if len(found) > 1 and rng.random() < 0.4 else [rng.choice(found)]
    return " and ".join(pair)


def request(story: str, found: list[str], rng: random.Random) -> list[Message]:
    """Return a chat in which the user asks for this story."""
    if not found or rng.random() < 0.15:
        return [user(rng.choice(OPEN_ASKS)), assistant(story)]
    what = subject(found, rng)
    answer = f"{rng.choice(LEAD_INS).format(x=what)}\n\n{story}" if rng.random() < 0.25 else story
    return [user(rng.choice(ASKS).format(x=what)), assistant(answer)]


def real_story(story: str, rng: random.Random) -> tuple[str, list[str]]:
    """Return a story of the corpus with other names, and its topics."""
    text = rename_characters(story, rng)
    return text, topics(text)


# --- built stories -------------------------------------------------------------------------------------------------

OPENINGS = (
    "Once upon a time, there was a {adj} {kind} named {name}. {name} lived {place}.",
    "Once upon a time, there was a {adj} {kind} named {name}. {He} lived {place}.",
    "One day, a {adj} {kind} named {name} was playing {place}.",
    "There once was a {adj} {kind}. {His} name was {name}, and {he} lived {place}.",
    "Once there was a {adj} {kind} called {name}. Every day, {name} played {place}.",
)
HABITS = (
    "{name} loved to play with {his} {thing}.",
    "{name} had a {color} {thing}. It was {his} favorite thing.",
    "More than anything, {he} loved {his} {color} {thing}.",
    "{His} mom gave {him} a new {thing}. It was {color} and shiny.",
)
PLACES = items(
    "in a small house near the forest|in a little house by the lake|on a farm|in a big town|near the sea|in the park"
    "|in a green garden|in a cozy house on a hill|by the river|under a big tree"
)
ADJS = items("little|small|happy|kind|brave|curious|friendly|clever|shy|quiet|funny|young")
COLORS = items("red|blue|green|yellow|purple|orange|white|golden|pink|silver")
TOYS = items("""ball|kite|hat|boat|book|drum|bike|doll|toy car|scarf|balloon|basket|bell|cup|key|lamp|map
ring|rope|shell
spoon|star|train|umbrella|whistle|wagon|crayon|blanket|puzzle|robot|flower|stone|feather|ribbon|jar|box""")
HEROES = [
    a for a in ANIMALS if a not in ("crab", "dolphin", "fish", "whale", "snail", "ant", "bee", "butterfly", "spider")
]
ENDINGS = (
    "From that day on, {name} and {friend} were best friends.",
    "{name} was very happy. It was the best day ever.",
    "{name} smiled and hugged {friend}. They lived happily ever after.",
    "That night, {name} went to bed with a smile.",
    "And every day after that, they played together.",
    "They both laughed and went home for dinner.",
)
MORALS = {
    "lost": "{name} learned that friends help each other.",
    "share": "{name} learned that sharing makes everyone happy.",
    "fear": "{name} learned that {he} could be brave.",
    "rain": "{name} learned that a rainy day can be fun too.",
    "bake": "{name} learned that working together is more fun.",
    "help": "{name} learned that being kind makes the heart feel warm.",
    "broken": "{name} learned that it is good to tell the truth.",
    "race": "{name} learned that having fun is better than winning.",
    "find": "{name} learned that it is good to give back what you find.",
    "sad": "{name} learned that a small gift can make a big smile.",
}
# Each plot is a row of steps; each step offers wordings. `friend` is the second character.
PLOTS = {
    "lost": (
        "One day, the {thing} was gone. {name} looked under the bed, but it was not there."
        "|One morning, {name} could not find the {thing}. {He} looked everywhere.",
        "{name} was very sad and started to cry.|{name} felt sad. \"Where is my {thing}?\" {he} asked.",
        "Then a {fkind} named {friend} came by. \"Why are you sad?\" asked {friend}."
        "|{friend} the {fkind} heard {him} and came to see. \"What is wrong?\" {friend} asked.",
        "\"I lost my {thing},\" said {name}.|\"I can't find my {color} {thing},\" {name} said.",
        "\"Don't worry, I will help you,\" said {friend}. They looked behind the door and under the tree."
        "|\"Let's look together,\" said {friend}. They looked in the grass and near the water.",
        "At last, {friend} saw something {color} behind a big rock. It was the {thing}!"
        "|Then {name} saw something {color} under a bush. \"There it is!\" {he} shouted.",
        "\"Thank you, {friend}!\" said {name}.|{name} jumped with joy. \"Thank you so much!\" {he} said.",
    ),
    "share": (
        "One day, {name} met a {fkind} named {friend}. {friend} had no {thing}."
        "|One sunny day, a {fkind} named {friend} came to play. {friend} had nothing to play with.",
        "\"Can I play with your {thing}?\" asked {friend}."
        "|{friend} looked at the {thing}. \"It is so pretty. May I play with it?\" asked {friend}.",
        "{name} held the {thing} tight. \"No, it is mine!\" {he} said.|\"No,\" said {name}. \"It is my {thing}.\"",
        "{friend} felt sad and walked away. {name} played alone, but it was not fun."
        "|{friend} went away with a sad face. Now {name} was alone, and {he} did not feel good.",
        "So {name} ran after {friend}. \"I am sorry,\" {he} said. \"Let's play together.\""
        "|{name} thought for a while. Then {he} found {friend} and said, \"Sorry. You can play with it too.\"",
        "They played with the {thing} all day and had a lot of fun."
        "|{friend} smiled. They took turns with the {thing} until the sun went down.",
    ),
    "fear": (
        "But {name} was afraid of the dark.|But {name} was scared of loud noises."
        "|But {name} was afraid of the deep water.",
        "One night, {he} heard a sound outside. \"Who is there?\" {he} asked."
        "|One evening, {he} heard a small cry near the trees.",
        "{name} wanted to hide. But then {he} heard the sound again. Someone needed help!"
        "|{His} heart went boom, boom, boom. But the voice said, \"Help me, please!\"",
        "{name} took a deep breath and went outside. There was a {fkind} named {friend}. {friend} was stuck in a "
        "hole.|{name} was scared, but {he} went to look. {friend} the {fkind} was stuck under a branch.",
        "{name} pulled and pulled. Pop! {friend} was free."
        "|{name} used the {thing} to help {friend} get out. It worked!",
        "\"You are so brave!\" said {friend}.|\"Thank you, {name}! You saved me,\" {friend} said.",
    ),
    "rain": (
        "One day, it started to rain. {name} could not go outside to play."
        "|One morning, {name} looked out of the window. It was raining hard.",
        "\"Oh no,\" said {name}. \"I wanted to play with my {thing}.\""
        "|{name} was sad. \"What can I do all day?\" {he} asked.",
        "Then there was a knock on the door. It was {friend} the {fkind}. {friend} was all wet."
        "|Knock, knock! A wet {fkind} named {friend} stood at the door.",
        "\"Come in!\" said {name}. {He} gave {friend} a warm blanket."
        "|\"Come in and get warm,\" said {name}. They drank warm milk.",
        "They built a tent with chairs and played inside it. The {thing} was their treasure."
        "|They sang songs and drew pictures of a {color} {thing}.",
        "When the rain stopped, they saw a big rainbow. \"Look!\" said {friend}."
        "|Soon the sun came out, and they jumped in the puddles.",
    ),
    "bake": (
        "One day, {name} wanted to make a cake for {his} mom."
        "|Today was a special day. {name} wanted to bake a big cake.",
        "But {he} did not know how. So {he} asked {friend} the {fkind} for help."
        "|\"Can you help me?\" {name} asked {friend}, the {fkind} next door.",
        "\"Yes! We need eggs, milk and sugar,\" said {friend}."
        "|\"Of course,\" said {friend}. \"First we need a big bowl.\"",
        "They mixed and mixed. Some of it fell on the floor, and they laughed."
        "|{name} mixed everything. Oops! There was flour on {his} nose. {friend} laughed.",
        "They put the cake in the oven and waited. It smelled so good!"
        "|Soon the house smelled sweet. The cake was ready.",
        "They put a little {color} {thing} on top of the cake. {His} mom loved it. \"What a nice surprise!\" she "
        "said.|{name} gave the cake and the {thing} to {his} mom. She was so happy that she gave them a big hug.",
    ),
    "help": (
        "One day, {name} saw an old {fkind} named {friend}. {friend} was carrying a heavy bag."
        "|One day, {name} was walking with the {thing}. {He} met a {fkind} named {friend} who was very tired.",
        "\"Can I help you?\" asked {name}.|\"You look tired. Let me help you,\" said {name}.",
        "\"Oh, thank you. My house is far away,\" said {friend}."
        "|\"That is very kind,\" said {friend}. \"I still have to walk up the hill.\"",
        "They walked together, over the bridge and up the hill."
        "|{name} carried the bag all the way. It was heavy, but {he} did not stop.",
        "When they came to the house, {friend} gave {name} a {color} {thing}."
        "|\"Here is a gift for you,\" said {friend}. It was a little {color} {thing}.",
        "\"Thank you! I will keep it forever,\" said {name}.|{name} was surprised. \"I love it!\" {he} said.",
    ),
    "broken": (
        "One day, {name} was playing with {friend}'s {thing}. {friend} was a {fkind}."
        "|{name} had a friend, a {fkind} named {friend}. One day, {friend} let {him} hold the {thing}.",
        "Crash! The {thing} fell on the ground and broke.|But {name} ran too fast. {He} fell, and the {thing} broke.",
        "{name} was scared. {He} wanted to hide the {thing}.|\"Oh no! What will {friend} say?\" {name} thought.",
        "But {he} knew that was not right. {name} went to {friend} and said, \"I broke your {thing}. I am sorry.\""
        "|{name} walked slowly to {friend}. \"I am so sorry. I broke it,\" {he} said with tears in {his} eyes.",
        "{friend} was sad for a moment. Then {friend} said, \"Thank you for telling me. We can fix it.\""
        "|\"It's okay,\" said {friend}. \"You told me the truth. Let's fix it together.\"",
        "They used glue and tape. Soon the {thing} was as good as new."
        "|They worked together, and soon the {color} {thing} was whole again.",
    ),
    "race": (
        "One day, {name} met a fast {fkind} named {friend}. \"I am the fastest!\" said {friend}."
        "|{friend} the {fkind} liked to run. \"Let's have a race!\" {friend} said one day.",
        "\"Let's race to the big tree,\" said {name}. \"The winner gets the {thing}!\""
        "|\"Okay,\" said {name}. \"The first one to the river can have the {color} {thing}.\"",
        "\"Ready, set, go!\" They ran as fast as they could.|One, two, three, go! {name} ran and ran.",
        "{friend} was ahead. But then {friend} fell down. \"Ouch!\""
        "|Then {friend} hit a rock and fell. \"My leg hurts,\" {friend} cried.",
        "{name} could win now. But {he} stopped and helped {friend} get up."
        "|{name} stopped running. {He} went back to help {friend}.",
        "They walked to the end together. \"We both win!\" said {friend}."
        "|\"You are a good friend,\" said {friend}. They crossed the line hand in hand.",
    ),
    "find": (
        "One day, {name} found a {color} {thing} in the grass. \"Wow, it is so pretty!\" {he} said."
        "|One day, {name} saw something {color} on the road. It was a {thing}!",
        "{name} wanted to keep it. {He} played with it all morning."
        "|{name} picked it up. \"Now it is mine,\" {he} thought.",
        "Then {he} saw a {fkind} named {friend}. {friend} was crying."
        "|But then a sad {fkind} came down the road. The {fkind}'s name was {friend}.",
        "\"I lost my {thing},\" said {friend}. \"My grandma gave it to me.\""
        "|\"Have you seen my {color} {thing}?\" asked {friend}. \"I can't find it.\"",
        "{name} looked at the {thing}. It was hard, but {he} gave it back. \"Here it is,\" {he} said."
        "|{name} thought about it. \"Is this yours?\" {he} asked, and gave the {thing} to {friend}.",
        "{friend} was so happy. \"Thank you! Do you want to play with me?\""
        "|\"Oh, thank you!\" said {friend}. \"Come, let's play with it together!\"",
    ),
    "sad": (
        "One day, {name} saw {friend}, a {fkind}, sitting alone on a bench."
        "|Next to {name} lived a {fkind} named {friend}. One day, {friend} looked very sad.",
        "\"What is the matter?\" asked {name}.|\"Why are you so sad, {friend}?\" {name} asked.",
        "\"It is my birthday, but nobody came,\" said {friend}.|\"I have no one to play with,\" said {friend}.",
        "{name} had an idea. {He} ran home as fast as {he} could.|\"Wait here!\" said {name}. {He} had a good idea.",
        "{He} put the {color} {thing} in a box and made a card with a big heart."
        "|{name} took the {thing} and put a {color} ribbon around it.",
        "\"This is for you,\" said {name}. {friend} opened it and smiled."
        "|\"Surprise!\" said {name}, and gave the {thing} to {friend}. {friend} was so happy.",
    ),
}  # fmt: skip


def _pronouns(girl: bool) -> dict[str, str]:
    """Return the pronouns of the hero."""
    he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
    return {"he": he, "him": him, "his": his, "He": he.capitalize(), "His": his.capitalize()}


def built_story(rng: random.Random, kind: str | None = None, thing: str | None = None) -> tuple[str, list[str]]:
    """Return a story put together from a plot, and its topics."""
    girl = rng.random() < 0.5
    names = rng.sample(GIRLS if girl else BOYS, 1) + rng.sample(GIRLS + BOYS, 2)
    hero = kind or (("girl" if girl else "boy") if rng.random() < 0.35 else rng.choice(HEROES))
    values = {
        "name": names[0], "friend": next(n for n in names[1:] if n != names[0]), "kind": hero,
        "fkind": rng.choice([a for a in HEROES if a != hero]), "thing": thing or rng.choice(TOYS),
        "adj": rng.choice(ADJS), "color": rng.choice(COLORS), "place": rng.choice(PLACES), **_pronouns(girl),
    }  # fmt: skip
    plot = rng.choice(sorted(PLOTS))
    habits = [] if plot in ("find", "help", "broken") else [rng.choice(HABITS)]
    opening = " ".join([rng.choice(OPENINGS), *habits])
    steps = [rng.choice(step.split("|")) for step in PLOTS[plot]]
    half = rng.randint(2, 4)
    ending = " ".join(
        rng.sample([MORALS[plot], rng.choice(ENDINGS)], 2) if rng.random() < 0.6 else [rng.choice(ENDINGS)]
    )
    paragraphs = [opening, " ".join(steps[:half]), " ".join([*steps[half:], ending])]
    text = _fix_articles("\n\n".join(paragraphs).format(**values))
    found = [with_article(hero), with_article(values["thing"]), f"a {hero} named {values['name']}", values["name"]]
    return text, [_fix_articles(item) for item in found]


def _fix_articles(text: str) -> str:
    """Write "an" before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeio]|um|un[^i])", r"\1n ", text)
