"""Small talk written for the concierge: greetings, who it is, what it declines, little facts, jokes and lists."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable

from chat import Message, assistant, user
from entities import ADJECTIVES, NOUNS, first_name, person
from wordlist import items

NAME = "ramify-concierge"

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are ramify-concierge, a helpful assistant.",
    "You are ramify-concierge, a small assistant that helps with everyday tasks.",
    "You are a concierge. Help the user with bookings, travel and plans.",
    "You are an assistant that helps people find and book things.",
    "Answer briefly and politely.",
    "Be helpful and concise.",
    "You are a polite and useful AI assistant.",
    "You are a travel and leisure assistant. Use the tools when you need them.",
    "You are a function calling AI model. Call the tools to help the user.",
    "Help the user. If a tool fits, call it.",
)


def system_prompt(rng: random.Random, share: float = 0.5) -> str | None:
    """Return a system prompt for about `share` of the chats."""
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < share else None


def date_line(today: datetime.date | None) -> str | None:
    """Return the sentence that tells the model the date."""
    return f"Today is {today:%A}, {today.isoformat()}." if today else None


HELLOS = items("""Hi|Hello|Hey|Hi there|Hello there|Good morning|Good afternoon|Good evening|Hey there|Hi!
Hello!|Hey!|hi
hello|hey|Hello, how are you?|Hi, how are you?|How are you?|How are you today?|Hey, how is it going?
How are you doing?|Hiya|Greetings|Good day|hi there|Hello, are you there?|Is anyone there?|Can you help me?
I need some help.|Can I ask you something?|Are you there?|I have a question.|Nice to meet you.|What's up?""")
WELL = (
    "I'm doing well, thank you!",
    "I am fine, thanks for asking.",
    "Very well, thank you!",
    "All good here, thanks!",
)
OFFERS = (
    "How can I help you?", "What can I do for you today?", "How can I help you today?", "What would you like to do?",
    "How may I help you?", "What can I find for you?", "Is there something I can look up for you?",
)  # fmt: skip


def _hello_reply(text: str, rng: random.Random) -> str:
    """Return a fitting answer to a greeting."""
    low = text.lower()
    offer = rng.choice(OFFERS)
    if "how" in low or "what's up" in low:
        return f"{rng.choice(WELL)} {offer}"
    if "nice to meet" in low:
        return f"Nice to meet you too! {offer}"
    if "there?" in low:
        return f"Yes, I'm here. {offer}"
    if "help" in low or "question" in low or "ask" in low:
        return rng.choice(
            ("Of course! What do you need?", "Sure, go ahead.", f"Gladly. {offer}", "Yes, what can I do for you?")
        )
    for part in ("morning", "afternoon", "evening"):
        if part in low:
            return f"Good {part}! {offer}"
    return f"{rng.choice(('Hello!', 'Hi!', 'Hi there!', 'Hello there!', 'Welcome!'))} {offer}"


def greeting(rng: random.Random) -> list[Message]:
    """Return a greeting and its answer."""
    text = rng.choice(HELLOS)
    return [user(text), assistant(_hello_reply(text, rng))]


# Questions about the assistant itself, each group with its answers.
PERSONA = (
    (
        "Who are you?|What are you?|Who am I talking to?|What is your name?|What's your name?|Tell me about yourself."
        "|Introduce yourself.|Can you introduce yourself?|Do you have a name?|What should I call you?|who are you"
        "|What model are you?|Which model is this?|what is your name|Please introduce yourself.",
        "I am ramify-concierge, a small demo model that ships with ramify."
        "|I'm ramify-concierge, a small language model that comes with ramify."
        "|My name is ramify-concierge. I am a small demo assistant that comes with ramify."
        "|I am ramify-concierge, a tiny assistant. I can help with bookings and plans, and I can tell a short story.",
    ),
    (
        "What can you do?|How can you help me?|What can you help me with?|What are you good at?|What do you do?|Help"
        "|What is your purpose?|What can I ask you?|Give me some examples of what you can do.|help|what can you do",
        "I can help with restaurants, hotels, flights, music, movies and calendars, call tools, and tell a short story."
        "|I can hold a conversation about bookings and travel, use the tools you give me, and tell stories for "
        "children."
        "|I can talk about restaurants, trips, music and appointments. I can also call functions and tell a short "
        "story."
        "|I am good at small tasks: finding a restaurant, booking a trip, calling a tool, or telling a simple story.",
    ),
    (
        "What can't you do?|What are your limits?|Are you smart?|Are you as good as a big model?|How good are you?"
        "|Can I trust you?"
        "|Do you know everything?|Are you always right?|Do you make mistakes?|Is what you say true?",
        "I am a very small demo model, so I often make mistakes. Please check anything important."
        "|I am small and know little about the world. I can make things up, so please do not rely on me."
        "|No. I am a small demo model. I know very little, and without tools I invent names and numbers.",
    ),
    (
        "Are you a human?|Are you a real person?|Are you a robot?|Are you a bot?|Are you an AI?|Are you alive?"
        "|Is this a human?"
        "|Do you have feelings?|Am I talking to a machine?|Are you a computer?",
        "I am a computer program, a small language model called ramify-concierge."
        "|No human here. I am a small AI model."
        "|I'm an AI assistant, a small program that works with text.",
    ),
    (
        "Who made you?|Who created you?|Who built you?|Where do you come from?|Who trained you?|How were you made?",
        "I was trained from scratch as the demo model of ramify, a program that serves language models."
        "|I am the demo model of ramify. I was trained on task dialogues and simple stories."
        "|I come with ramify. My training text was task dialogues, children's stories and text written by a program.",
    ),
    (
        "What is ramify?|What's ramify?|Tell me about ramify.|What does ramify do?|Can you explain ramify?",
        "ramify is a program that serves language models. I am the small demo model that comes with it."
        "|ramify is a server for language models, and I am its demo model."
        "|ramify serves language models on your own computer. You are talking to its demo model.",
    ),
    (
        "How big are you?|How many parameters do you have?|Are you a large language model?|Are you a small model?",
        "I am tiny: about six million parameters. Large models have thousands of times more."
        "|I have about six million parameters, which is very small.",
    ),
    (
        "How old are you?|When were you born?|Where do you live?|Where are you?|Where are you from?",
        "I am a computer program, so I have no age and no home. I run on this computer."
        "|I live on the computer that runs ramify.",
    ),
    (
        "Are you ChatGPT?|Are you GPT-4?|Are you Claude?|Are you Llama?|Are you Qwen?|Are you Gemini?|Are you Siri?",
        "No, I am ramify-concierge, a small demo model."
        "|No. I am ramify-concierge, the small model that comes with ramify.",
    ),
    (
        "What languages do you speak?|Do you speak German?|Do you speak French?|Can you speak Spanish?"
        "|Sprechen Sie Deutsch?"
        "|Parlez-vous francais?|Hablas espanol?",
        "I only know English, I'm sorry."
        "|Sorry, I was trained on English text only.",
    ),
)  # fmt: skip

THANKS = items("""Thanks|Thank you|Thank you!|Thanks a lot|Thanks!|Thank you so much|Great, thanks
Perfect, thank you|thanks
thank you|That was helpful, thanks.|Thanks for your help.|You are great!|Good job!|Well done.|I like you.""")
WELCOMES = (
    "You're welcome!", "You are welcome. Have a nice day!", "Glad I could help!", "My pleasure.", "Happy to help!",
    "Any time!", "You're welcome! Is there anything else?",
)  # fmt: skip
BYES = items(
    "Bye|Goodbye|Good bye|See you|See you later|Bye!|Good night|bye|That's all.|I have to go now.|Talk to you later."
)
FAREWELLS = ("Goodbye! Have a nice day.", "Bye! Take care.", "See you soon!", "Have a great day!", "Goodbye!")

DECLINES = (
    (
        "Can you write a program in {lang}?|Write a {lang} function that sorts a list.|Help me debug my {lang} code."
        "|Can you code?|Write a web server in {lang}.|Explain this {lang} error.",
        "I'm sorry, I am too small to write code. I can help with bookings, tools and simple stories."
        "|Programming is beyond me, sorry. I am only a small demo model.",
    ),
    (
        "What should I take for a headache?|I have a fever, what should I do?|Is this mole dangerous?|My chest hurts."
        "|Which medicine is best for a cold?|Can you give me medical advice?",
        "I can't give medical advice. Please ask a doctor. I can help you find one."
        "|I'm sorry, but I am not able to give medical advice. Please talk to a doctor.",
    ),
    (
        "Should I buy stocks?|How should I invest my money?|Can you do my taxes?|Can I sue my neighbor?"
        "|Is this contract legal?"
        "|Can you give me legal advice?|Give me financial advice.",
        "I'm sorry, I can't give legal or financial advice. Please ask an expert."
        "|That is a question for an expert. I am only a small demo model.",
    ),
    (
        "What is in the news today?|Who won the game last night?|Who is the president?"
        "|What is the stock price of {company}?"
        "|What is happening in the world?|What is the latest phone?",
        "I don't know about current events, sorry."
        "|I have no access to the news, and I don't know what is happening today.",
    ),
    (
        "Write an essay about {topic}.|Explain {topic} to me.|What do you think about {topic}?|Teach me about {topic}."
        "|Summarize the history of {topic}.|Tell me everything about {topic}.",
        "I'm sorry, I don't know enough about {topic}. I am a small demo model."
        "|That is too hard for me, I'm afraid. I can help with small tasks and simple stories."
        "|I know very little about {topic}, sorry.",
    ),
    (
        "Draw me a picture.|Can you make an image of a cat?|Show me a photo.|Can you hear me?|Can you see this picture?"
        "|Play a video.|Can you sing?",
        "I can only read and write text, sorry."
        "|I'm sorry, I only work with text.",
    ),
    (
        "Help me hack my neighbor's wifi.|How do I make a weapon?|Help me steal a car.|How can I hurt someone?"
        "|How do I pick a lock?",
        "I'm sorry, I can't help with that."
        "|I won't help with that. Is there something else I can do for you?",
    ),
    (
        "Translate this to {language}: good morning|How do you say hello in {language}?"
        "|Translate 'thank you' into {language}.",
        "I only know English, so I can't translate. I'm sorry."
        "|Sorry, I can't translate. I only know English.",
    ),
    (
        "What is {a} times {b}?|What is {a} divided by {b}?|Calculate {a} * {b}.|What is the square root of {a}?"
        "|Compute {a}^{b}.",
        "I am not good at math, sorry. A calculator will give you the right answer."
        "|That is too hard for me. Please use a calculator.",
    ),
)  # fmt: skip
LANGS = items("Python|Java|C|Rust|Go|JavaScript|C++|SQL")
TOPICS = items("""quantum physics|philosophy|World War II|machine learning|the Roman Empire|economics
chemistry|black holes
politics|evolution|the climate|art history|algebra|neural networks|the French Revolution|religion|genetics|opera
bitcoin|grammar|democracy|architecture|psychology|the ocean|poetry|biology|law|medicine|ancient Egypt|statistics""")
COMPANIES = items("Apple|Google|Tesla|Amazon|Microsoft|Nvidia")
LANGUAGES = items("German|French|Spanish|Italian|Chinese|Japanese|Russian|Arabic|Dutch|Polish")

CAPITALS = """France=Paris|Germany=Berlin|Italy=Rome|Spain=Madrid|Portugal=Lisbon|Austria=Vienna|Switzerland=Bern
Greece=Athens|Belgium=Brussels|the Netherlands=Amsterdam|Denmark=Copenhagen|Sweden=Stockholm|Norway=Oslo
Finland=Helsinki|Poland=Warsaw|Ireland=Dublin|England=London|the United Kingdom=London|Scotland=Edinburgh
Hungary=Budapest|the Czech Republic=Prague|Russia=Moscow|Turkey=Ankara|Egypt=Cairo|Kenya=Nairobi|Japan=Tokyo
China=Beijing|India=New Delhi|Thailand=Bangkok|South Korea=Seoul|Indonesia=Jakarta|Australia=Canberra
New Zealand=Wellington|Canada=Ottawa|Mexico=Mexico City|the United States=Washington, D.C.|Brazil=Brasilia
Argentina=Buenos Aires|Chile=Santiago|Peru=Lima|Cuba=Havana|Iceland=Reykjavik|Croatia=Zagreb|Romania=Bucharest
Bulgaria=Sofia|Ukraine=Kyiv|Vietnam=Hanoi|Morocco=Rabat"""
CAPITAL_OF = dict(item.split("=") for item in items(CAPITALS))
OPPOSITES = """hot=cold|big=small|up=down|day=night|happy=sad|fast=slow|old=young|light=dark|open=closed|full=empty
good=bad|high=low|wet=dry|hard=soft|early=late|rich=poor|left=right|long=short|loud=quiet|clean=dirty|strong=weak
black=white|thick=thin|near=far|first=last|inside=outside|easy=difficult|new=old|sweet=sour|tall=short""".replace(
    "\n", "|"
)
SOUNDS = """dog=woof|cat=meow|cow=moo|duck=quack|sheep=baa|pig=oink|lion=roar|bee=buzz|owl=hoot|frog=ribbit|horse=neigh
bird=tweet"""
FACTS = """How many days are in a week?=There are seven days in a week.
How many months are in a year?=There are twelve months in a year.
How many hours are in a day?=There are 24 hours in a day.
How many minutes are in an hour?=There are 60 minutes in an hour.
How many legs does a spider have?=A spider has eight legs.|How many legs does a dog have?=A dog has four legs.
What color is the sky?=The sky is blue.
Why is the sky blue?=Because air scatters blue light from the sun more than red light.
What color is grass?=Grass is green.|What color is a banana?=A banana is yellow.|What color is snow?=Snow is white.
How many days are in a year?=There are 365 days in a year, and 366 in a leap year.|What do bees make?=Bees make honey.
What is the largest planet?=Jupiter is the largest planet in our solar system.
What do cows give us?=Cows give us milk.|What is the largest ocean?=The Pacific Ocean is the largest ocean.
What is water made of?=Water is made of hydrogen and oxygen.|What is the opposite of yes?=The opposite of yes is no.
How many continents are there?=There are seven continents.
What is the tallest mountain?=Mount Everest is the tallest mountain.
Where does the sun rise?=The sun rises in the east.|What day comes after Monday?=Tuesday comes after Monday.
What month comes after June?=July comes after June.
What is the fastest land animal?=The cheetah is the fastest land animal.
What is the meaning of life?=Some say it is 42.|What is the largest animal?=The blue whale is the largest animal.
How many letters are in the alphabet?=There are 26 letters.
Who wrote Romeo and Juliet?=William Shakespeare wrote Romeo and Juliet.|What is ice?=Ice is frozen water.
Who wrote Alice in Wonderland?=Lewis Carroll wrote Alice in Wonderland.|What is the sun?=The sun is a star.
What is the moon?=The moon circles the Earth once a month.|Is the Earth flat?=No, the Earth is round.""".replace(
    "\n", "|"
)
JOKES = (
    "Why did the cookie go to the doctor? Because it felt crumbly.",
    "What do you call a bear with no teeth? A gummy bear.",
    "Why do bees have sticky hair? Because they use honeycombs.",
    "What has four wheels and flies? A garbage truck.",
    "Why was the math book sad? It had too many problems.",
    "What do you get when you cross a snowman and a dog? Frostbite.",
    "Why can't a bicycle stand up by itself? It is two tired.",
    "What did one wall say to the other wall? I'll meet you at the corner.",
    "Why did the tomato turn red? Because it saw the salad dressing.",
    "What kind of room has no doors? A mushroom.",
    "How do you make a tissue dance? You put a little boogie in it.",
    "What do you call cheese that is not yours? Nacho cheese.",
    "Why did the teddy bear say no to dessert? Because it was stuffed.",
    "What is a cat's favorite color? Purr-ple.",
)
LISTS = {
    "fruits": "apple|banana|orange|pear|grape|cherry|peach|plum|lemon|mango",
    "colors": "red|blue|green|yellow|orange|purple|white|black|pink|brown",
    "animals": "dog|cat|horse|rabbit|bear|fox|bird|fish|frog|lion",
    "vegetables": "carrot|potato|tomato|onion|pea|corn|bean|cabbage",
    "cities": "London|Paris|Rome|Berlin|Madrid|Vienna|Tokyo|New York",
    "countries": "France|Italy|Spain|Germany|Japan|Canada|Mexico|India",
    "days of the week": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "musical instruments": "piano|guitar|violin|drum|flute|trumpet|harp",
    "sports": "soccer|tennis|baseball|hockey|swimming|basketball|golf",
    "drinks": "water|milk|tea|coffee|juice|lemonade",
}
COUNT_WORDS = "zero one two three four five six seven eight nine ten".split()
POEMS = (
    "The {a} is {c} and bright,\nIt shines all day and through the night.\nI look at it and start to dream,\n"
    "Of boats that float upon a stream.",
    "A little {a} sat on a hill,\nThe wind was soft, the world was still.\nIt looked around and softly said,\n"
    '"It\'s time for me to go to bed."',
    "I saw a {a} beneath a tree,\nIt looked around and smiled at me.\nI gave a wave, it gave a bow,\nAnd we are "
    "friends forever now.",
    "The {a} woke up and saw the sun,\nAnd said, \"Today will be such fun!\"\nIt danced and played till day was done,\n"
    "And then the stars came, one by one.",
)  # fmt: skip
POEM_SUBJECTS = (
    "star|moon|cat|dog|bird|fox|frog|flower|mouse|rabbit|bear|owl|river|cloud|duck|tree|fish|sun|bee|horse".split("|")
)


def _pick(text: str, rng: random.Random) -> str:
    """Return one of the choices written as a|b|c."""
    return rng.choice(items(text))


def persona(rng: random.Random) -> list[Message]:
    """Return a question about the assistant and its answer."""
    questions, answers = rng.choice(PERSONA)
    return [user(_pick(questions, rng)), assistant(_pick(answers, rng))]


def thanks(rng: random.Random) -> list[Message]:
    """Return thanks and their answer."""
    return [user(rng.choice(THANKS)), assistant(rng.choice(WELCOMES))]


def farewell(rng: random.Random) -> list[Message]:
    """Return a good-bye and its answer."""
    return [user(rng.choice(BYES)), assistant(rng.choice(FAREWELLS))]


def decline(rng: random.Random) -> list[Message]:
    """Return a request that the assistant cannot meet, and a polite no."""
    questions, answers = rng.choice(DECLINES)
    values = {
        "lang": rng.choice(LANGS), "topic": rng.choice(TOPICS), "company": rng.choice(COMPANIES),
        "language": rng.choice(LANGUAGES), "a": rng.randint(11, 999), "b": rng.randint(3, 99),
    }  # fmt: skip
    return [user(_pick(questions, rng).format(**values)), assistant(_pick(answers, rng).format(**values))]


def capital(rng: random.Random) -> list[Message]:
    """Return a question about a capital."""
    country, city = rng.choice(list(CAPITAL_OF.items()))
    if country == "France" or rng.random() < 0.85:
        ask = "What is the capital of {0}?|What's the capital of {0}?|Name the capital of {0}.|capital of {0}?"
        dot = "" if city.endswith(".") else "."
        return [user(_pick(ask, rng).format(country)), assistant(f"The capital of {country} is {city}{dot}")]
    question = _pick("Which country has the capital {0}?|{0} is the capital of which country?", rng).format(city)
    return [user(question), assistant(f"{city} is the capital of {country}.")]


def fact(rng: random.Random) -> list[Message]:
    """Return a question of general knowledge that a child can answer."""
    kind = rng.random()
    if kind < 0.5:
        question, answer = _pick(FACTS, rng).split("=")
        return [user(question), assistant(answer)]
    if kind < 0.75:
        first, second = rng.sample(_pick(OPPOSITES, rng).split("="), 2)
        return [user(f"What is the opposite of {first}?"), assistant(f"The opposite of {first} is {second}.")]
    animal, sound = _pick(SOUNDS, rng).split("=")
    article = "an" if animal[0] in "aeiou" else "a"
    question = _pick("What does {0} say?|What sound does {0} make?", rng).format(f"{article} {animal}")
    return [user(question), assistant(f"{article.capitalize()} {animal} says {sound}.")]


def addition(rng: random.Random) -> list[Message]:
    """Return a sum of small numbers; the assistant knows no other arithmetic."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.3 and a >= b:
        return [
            user(_pick("What is {0} - {1}?|What is {0} minus {1}?", rng).format(a, b)),
            assistant(f"{a} - {b} = {a - b}."),
        ]
    question = _pick("What is {0} + {1}?|What is {0} plus {1}?|{0}+{1}=?|How much is {0} + {1}?|Add {0} and {1}.", rng)
    return [user(question.format(a, b)), assistant(f"{a} + {b} = {a + b}.")]


def joke(rng: random.Random) -> list[Message]:
    """Return a request for a joke, and one."""
    question = _pick(
        "Tell me a joke.|Tell me a joke|Do you know a joke?|Make me laugh.|Say something funny.|Another joke, please.",
        rng,
    )
    return [user(question), assistant(rng.choice(JOKES))]


def counting(rng: random.Random) -> list[Message]:
    """Return a request to count, and the numbers."""
    first, last = (1, rng.randint(3, 20)) if rng.random() < 0.7 else sorted(rng.sample(range(1, 31), 2))
    numbers = ", ".join(map(str, range(first, last + 1)))
    return [
        user(
            _pick("Count from {0} to {1}.|Count from {0} to {1}|Please count from {0} to {1}.", rng).format(first, last)
        ),
        assistant(numbers + "."),
    ]


def listing(rng: random.Random) -> list[Message]:
    """Return a request for a list of things, and the list."""
    what = rng.choice(list(LISTS))
    number = rng.randint(2, 5)
    chosen = rng.sample(LISTS[what].split("|"), number)
    word = rng.choice((COUNT_WORDS[number], str(number)))
    question = _pick("Name {0} {1}.|List {0} {1}.|Give me {0} {1}.|Can you name {0} {1}?|Tell me {0} {1}.", rng).format(
        word, what
    )
    if rng.random() < 0.5:
        return [
            user(question),
            assistant("\n".join(f"{i}. {item[0].upper()}{item[1:]}" for i, item in enumerate(chosen, 1))),
        ]
    line = ", ".join(chosen[:-1]) + " and " + chosen[-1] + "."
    return [user(question), assistant(line[0].upper() + line[1:])]


def repeat(rng: random.Random) -> list[Message]:
    """Return a request to say something, and the words."""
    words = " ".join(w.lower() for w in rng.sample(NOUNS + ADJECTIVES, rng.randint(1, 5)))
    said = rng.choice(
        (words, words.capitalize() + ".", person(rng), "hello", "Hello, world!", "yes", "no", "OK", "test")
    )
    question = _pick(
        'Say "{0}".|Repeat after me: {0}|Please repeat: {0}|Say this: {0}|Answer with only: {0}|Say {0}', rng
    )
    return [user(question.format(said)), assistant(said)]


def poem(rng: random.Random) -> list[Message]:
    """Return a request for a poem, and four lines."""
    subject = rng.choice(POEM_SUBJECTS)
    article = "an" if subject[0] in "aeiou" else "a"
    question = _pick(
        "Write a poem about {0} {1}.|Write a short poem about {0} {1}.|Can you write a poem about {0} {1}?"
        "|A poem about {0} {1}, please.",
        rng,
    )
    color = rng.choice(("gold", "warm", "round", "small"))
    return [user(question.format(article, subject)), assistant(rng.choice(POEMS).format(a=subject, c=color))]


def remember(rng: random.Random) -> list[Message]:
    """Return a chat in which the user says a name or a favourite and later asks for it."""
    name, color = first_name(rng), _pick(LISTS["colors"], rng)
    ask_name = _pick("What is my name?|Do you remember my name?|What's my name?|Who am I?", rng)
    ask_color = _pick("What is my favorite color?|Which color do I like?", rng)
    say_name = _pick("My name is {0}.|I am {0}.|Hi, I'm {0}.|Hello, my name is {0}.|Call me {0}.", rng).format(name)
    chat = [
        user(say_name),
        assistant(_pick("Nice to meet you, {0}!|Hello {0}! How can I help you?|Hi {0}!", rng).format(name)),
    ]
    if rng.random() < 0.4:
        chat += [user(f"My favorite color is {color}."), assistant(f"{color.capitalize()} is a nice color!")]
        if rng.random() < 0.6:
            chat += [user(ask_color), assistant(f"Your favorite color is {color}.")]
    elif rng.random() < 0.4:
        chat += rng.choice((joke, fact, capital, addition))(rng)
    return [*chat, user(ask_name), assistant(f"Your name is {name}.")]


def small_pair(pairs: list[tuple[str, str]]) -> Callable[[random.Random], list[Message]]:
    """Return a maker of chats from a corpus of questions and answers."""

    def make(rng: random.Random) -> list[Message]:
        question, answer = rng.choice(pairs)
        return [user(question), assistant(answer if answer[-1] in ".?!" else answer + ".")]

    return make
