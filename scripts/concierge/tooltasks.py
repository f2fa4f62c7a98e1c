"""Chats about everyday functions (weather, timers, mail ...): when to call, when to ask, when to just talk.

Every function appears under several names with several spellings of its parameters, so the only safe source for both is
the list of tools in the prompt.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import phrases
from chat import Message, Tool, assistant, call, calls, function, system, tool_result, user
from entities import ADJECTIVES, CITIES, NOUNS, first_name, person, phrase
from wordlist import items

Values = dict[str, Any]
STRING, INTEGER, NUMBER, BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))


@dataclass(frozen=True)
class Skill:
    """A function with everything needed to write chats about it."""

    names: str
    descriptions: str
    slots: dict[str, tuple[str, dict[str, Any]]]
    draw: Callable[[random.Random], Values]
    asks: str
    result: Callable[[Values, random.Random], Values]
    replies: str
    optional: tuple[str, ...] = ()
    question: tuple[str, str, str] | None = None


@dataclass
class Dressed:
    """A skill under one choice of names, and its tool."""

    skill: Skill
    name: str
    slots: dict[str, str]
    tool: Tool

    def arguments(self, values: Values, wanted: list[str]) -> Values:
        """Return the call's arguments under the chosen names."""
        return {self.slots[slot]: values[slot] for slot in wanted}


def _one(choices: str, rng: random.Random) -> str:
    """Return one of the choices written as a|b|c."""
    return rng.choice(choices.split("|"))


def _clock(rng: random.Random) -> Values:
    """Return a time of day, written for people and for machines."""
    hour, minute = rng.randint(5, 22), rng.choice((0, 0, 15, 30, 45))
    said = f"{(hour - 1) % 12 + 1}{f':{minute:02d}' if minute else ''} {'am' if hour < 12 else 'pm'}"
    return {"time": f"{hour:02d}:{minute:02d}", "said": said}


def _words(rng: random.Random, count: int) -> str:
    """Return a few lower-case words."""
    return " ".join(rng.choice(ADJECTIVES + NOUNS).lower() for _ in range(count))


CHORES = items("""call mom|water the plants|buy milk|feed the cat|take out the trash|pay the rent|walk the dog
do the laundry|send the report|clean the kitchen|pick up the kids|book a flight|read the book|go to the gym
fix the bike|write a letter|return the books|charge the phone|bake a cake|wash the car|order a gift|check the mail""")
FOODS = items("""apples|bananas|bread|butter|carrots|cheese|chicken|coffee|eggs|fish|flour|garlic|honey|lemons|milk
mushrooms|onions|oranges|pasta|peas|potatoes|rice|salt|spinach|sugar|tea|tomatoes|yogurt""")
SUBJECTS = items("""meeting notes|dinner on Friday|project plan|happy birthday|vacation|invoice|your order|team lunch
weekly report|trip photos|new ideas|the weekend|lost keys|concert tickets""")
QUERIES = items("""best pizza|train times|cheap flights|how to bake bread|history of tea|bike repair|museums nearby
weather radar|running shoes|guitar lessons|cat food|garden tips|used cars|movie reviews|chocolate cake recipe
hotels near the beach|learn to swim|birthday gifts|hiking trails|solar panels""")
NEWS = items("sports|technology|science|politics|music|business|health|travel|movies|weather")
ROOMS = items("kitchen|bedroom|living room|bathroom|hallway|office|garage|garden|dining room|attic")
MONEY = {"USD": "dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CHF": "francs", "CAD": "Canadian dollars"}
UNITS = {"kilometers": "miles", "kilograms": "pounds", "meters": "feet", "liters": "gallons", "miles": "kilometers",
         "pounds": "kilograms", "inches": "centimeters"}  # fmt: skip
SKIES = items("sunny|cloudy|rainy|clear|foggy|windy|snowy|partly cloudy|stormy")
WORDS = (
    "brave|candle|curious|gentle|harbor|journey|lantern|meadow|puzzle|quiet|river|shadow|storm|velvet|whisper".split(
        "|"
    )
)


def _weather(rng: random.Random) -> Values:
    unit = rng.choice(("celsius", "fahrenheit"))
    return {"city": rng.choice(CITIES), "unit": unit, "date": rng.choice(("today", "tomorrow"))}


def _weather_result(values: Values, rng: random.Random) -> Values:
    warm = rng.randint(-5, 35) if values.get("unit") != "fahrenheit" else rng.randint(20, 99)
    return {"temperature": warm, "condition": rng.choice(SKIES)}


def _sum(rng: random.Random) -> Values:
    a, b, sign = rng.randint(2, 999), rng.randint(2, 99), rng.choice("+-*/")
    said = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[sign]
    return {"expression": f"{a} {sign} {b}", "a": a, "b": b, "said": said, "sign": sign}


def _sum_result(values: Values, rng: random.Random) -> Values:
    a, b = values["a"], values["b"]
    table = {"+": a + b, "-": a - b, "*": a * b, "/": round(a / b, 2)}
    return {"result": table[values["sign"]]}


def _order_number(rng: random.Random) -> str:
    return "".join(rng.choice(string.ascii_uppercase) for _ in range(2)) + str(rng.randint(1000, 99999))


def _exchange(rng: random.Random) -> Values:
    source, target = rng.sample(sorted(MONEY), 2)
    return {
        "amount": rng.randint(5, 2000),
        "source": source,
        "target": target,
        "from": MONEY[source],
        "to": MONEY[target],
    }


def _route(rng: random.Random) -> Values:
    start, end = rng.sample(CITIES, 2)
    return {"origin": start, "destination": end, "mode": rng.choice(("driving", "walking", "cycling"))}


def _table(rng: random.Random) -> Values:
    return {"restaurant": phrase(rng), "people": rng.randint(1, 9), **_clock(rng)}


def _mail(rng: random.Random) -> Values:
    name = first_name(rng)
    host = f"{rng.choice(NOUNS).lower()}.{rng.choice(('com', 'org', 'net'))}"
    return {"to": f"{name.lower()}@{host}", "subject": rng.choice(SUBJECTS), "name": name}


def _unit(rng: random.Random) -> Values:
    source = rng.choice(sorted(UNITS))
    return {"value": rng.randint(1, 500), "source": source, "target": UNITS[source]}


def _bounds(rng: random.Random) -> Values:
    low = rng.randint(0, 50)
    return {"low": low, "high": low + rng.randint(5, 100)}


def _groceries(rng: random.Random) -> Values:
    items = rng.sample(FOODS, rng.randint(1, 3))
    said = items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
    return {"items": items, "said": said}


def _file(rng: random.Random) -> Values:
    return {
        "path": f"{rng.choice(('notes', 'docs', 'data', 'photos'))}/{rng.choice(NOUNS).lower()}."
        f"{rng.choice(('txt', 'md', 'csv'))}"
    }


SKILLS = (
    Skill(
        "get_weather|get_current_weather|getWeather|weather|check_weather|get_weather_forecast",
        "Get the current weather for a city|Get the weather|Get the current weather in a given location"
        "|Weather of a place",
        {"city": ("city|location|place|town", STRING),
        "unit": ("unit|units", {"type": "string", "enum": ["celsius", "fahrenheit"]})},
        _weather,
        "What is the weather in {city}?|What's the weather like in {city}?|How is the weather in {city} today?"
        "|weather in {city}"
        "|What's the weather like in {city} today?|Is it cold in {city}?|Tell me the weather in {city}."
        "|Is it raining in {city}?"
        "|What is the temperature in {city}?|What is the weather in {city} in {unit}?"
        "|Give me the temperature in {city} in {unit}.",
        _weather_result,
        "It is {condition} in {city} with {temperature} degrees."
        "|The weather in {city} is {condition}, {temperature} degrees.",
        ("unit",),
        ("What is the weather like?|How is the weather?|Do I need an umbrella?",
        "city", "For which city?|Which city do you mean?|Where are you?"),
    ),
    Skill(
        "get_time|get_current_time|current_time|world_clock|getTime",
        "Get the current time in a city|Get the time for a place|Current local time",
        {"city": ("city|timezone|location|place", STRING)},
        lambda rng: {"city": rng.choice(CITIES)},
        "What time is it in {city}?|Tell me the time in {city}.|Current time in {city}?|What's the time in {city} now?",
        lambda values, rng: {"time": _clock(rng)["time"]},
        "It is {time} in {city}.|The time in {city} is {time}.",
        (),
        ("What time is it?|What's the time?", "city", "In which city?|For which place?"),
    ),
    Skill(
        "calculator|calculate|evaluate|math|compute",
        "Evaluate an arithmetic expression|Calculate the result of an expression|A simple calculator",
        {"expression": ("expression|formula|input|expr", STRING)},
        _sum,
        "What is {expression}?|Calculate {expression}.|What is {a} {said} {b}?|How much is {a} {said} {b}?"
        "|Compute {expression}",
        _sum_result,
        "The result is {result}.|{expression} = {result}.|That is {result}.",
    ),
    Skill(
        "add|add_numbers|sum|plus",
        "Add two numbers|Return the sum of two numbers|Add two integers",
        {"a": ("a|x|first", INTEGER), "b": ("b|y|second", INTEGER)},
        lambda rng: {"a": rng.randint(1, 999), "b": rng.randint(1, 999)},
        "What is {a} plus {b}?|Add {a} and {b}.|What is {a} + {b}?|Sum of {a} and {b}?|Can you add {a} and {b}?",
        lambda values, rng: {"result": values["a"] + values["b"]},
        "The result is {result}.|{a} + {b} = {result}.|It is {result}.",
    ),
    Skill(
        "web_search|search|search_web|google|internet_search",
        "Search the web|Search the internet for information|Find pages on the web",
        {"query": ("query|q|text|keywords", STRING)},
        lambda rng: {"query": rng.choice(QUERIES)},
        "Search the web for {query}.|Search for {query}.|Look up {query} online.|Find something about {query}."
        "|google {query}",
        lambda values, rng: {"title": phrase(rng), "url": f"www.{rng.choice(NOUNS).lower()}.com"},
        "I found {title} at {url}.|The first result is {title}: {url}.",
        (),
        ("Search something for me.|Can you search the web?",
        "query", "What should I search for?|What are you looking for?"),
    ),
    Skill(
        "send_email|send_mail|email|sendEmail",
        "Send an email|Send an email to someone|Mail a message",
        {"to": ("to|recipient|address|email", STRING), "subject": ("subject|title|topic", STRING)},
        _mail,
        "Send an email to {to} about {subject}.|Email {to} with the subject {subject}."
        "|Write an email to {to} about {subject}.",
        lambda values, rng: {"status": "sent"},
        "I sent your email to {to}.|Done, the email about {subject} is sent.",
    ),
    Skill(
        "send_message|send_text|text_message|sendMessage|message",
        "Send a text message|Send a message to a contact",
        {"name": ("recipient|to|contact|name", STRING), "text": ("message|text|body|content", STRING)},
        lambda rng: {"name": first_name(rng),
        "text": rng.choice(("I am late", "see you soon", "good luck", "happy birthday",
                     "call me back", "I miss you",
                     "dinner is ready", "thank you", "on my way", f"bring the {_words(rng, 1)}"))},
        "Send {name} a message: {text}|Text {name}: {text}|Tell {name}: {text}"
        "|Write a message to {name} that says {text}",
        lambda values, rng: {"status": "sent"},
        "I sent the message to {name}.|Done. {name} will get your message.",
    ),
    Skill(
        "set_alarm|create_alarm|alarm|setAlarm",
        "Set an alarm|Set an alarm for a time|Wake the user",
        {"time": ("time|at|alarm_time", STRING)},
        _clock,
        "Set an alarm for {said}.|Wake me up at {said}.|I need an alarm at {said}.|Can you wake me at {said}?"
        "|alarm at {time}",
        lambda values, rng: {"status": "ok"},
        "Your alarm is set for {said}.|Done. I set the alarm for {said}.",
        (),
        ("Set an alarm.|Can you wake me up?|I need an alarm.", "time", "For what time?|At what time?"),
    ),
    Skill(
        "set_timer|start_timer|timer|startTimer",
        "Start a timer|Set a timer for some minutes|Count down",
        {"minutes": ("minutes|duration|duration_minutes|length", INTEGER)},
        lambda rng: {"minutes": rng.randint(2, 90)},
        "Set a timer for {minutes} minutes.|Start a {minutes} minute timer.|Timer for {minutes} minutes, please."
        "|Tell me when {minutes} minutes are over.",
        lambda values, rng: {"status": "ok"},
        "The timer is set for {minutes} minutes.|Done. {minutes} minutes from now.",
        (),
        ("Set a timer.|Start a timer, please.", "minutes", "For how many minutes?|How long?"),
    ),
    Skill(
        "create_reminder|add_reminder|remind|set_reminder",
        "Create a reminder|Remind the user of something|Add a reminder",
        {"text": ("text|task|what|title", STRING), "time": ("time|when|at", STRING)},
        lambda rng: {"text": rng.choice(CHORES), **_clock(rng)},
        "Remind me to {text} at {said}.|At {said}, remind me to {text}.|Set a reminder to {text} at {said}."
        "|I have to {text} at {said}. Remind me.",
        lambda values, rng: {"status": "ok"},
        "I will remind you to {text} at {said}.|Done. I'll remind you at {said}.",
    ),
    Skill(
        "add_task|create_todo|add_todo|new_task",
        "Add a task to the list|Add an item to the to-do list",
        {"text": ("task|title|text|name", STRING)},
        lambda rng: {"text": rng.choice(CHORES)},
        "Add {text} to my list.|Put {text} on my to-do list.|New task: {text}|I need to {text}. Write it down.",
        lambda values, rng: {"status": "ok", "id": rng.randint(1, 99)},
        "I added {text} to your list.|Done. Your list now has the task {text}.",
    ),
    Skill(
        "get_stock_price|stock_price|get_quote|quote",
        "Get the price of a stock|Get the current stock price|Stock quote",
        {"symbol": ("symbol|ticker|stock", STRING)},
        lambda rng: {"symbol": rng.choice((
            "AAPL", "GOOG", "MSFT", "TSLA", "AMZN", "NVDA", "IBM", "ORCL")) if rng.random() < 0.5
                     else "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(3, 4)))},
        "What is the price of {symbol}?|How much is {symbol} stock?|Stock price of {symbol}?"
        "|Get me a quote for {symbol}.",
        lambda values, rng: {"price": round(rng.uniform(5, 900), 2)},
        "{symbol} is at ${price}.|The price of {symbol} is ${price}.",
    ),
    Skill(
        "convert_currency|currency_converter|exchange|convert_money",
        "Convert an amount of money|Convert between currencies",
        {"amount": ("amount|value|sum", NUMBER),
        "source": ("from_currency|from|source|base", STRING), "target": ("to_currency|to|target", STRING)},
        _exchange,
        "Convert {amount} {source} to {target}.|How much is {amount} {source} in {target}?"
        "|What is {amount} {from} in {to}?",
        lambda values, rng: {"result": round(values["amount"] * rng.uniform(0.5, 2), 2)},
        "{amount} {source} is {result} {target}.|That is {result} {target}.",
    ),
    Skill(
        "convert_units|unit_converter|convert|to_unit",
        "Convert a value to another unit|Convert units",
        {"value": ("value|amount|number", NUMBER),
        "source": ("from_unit|from|unit", STRING), "target": ("to_unit|to|target", STRING)},
        _unit,
        "Convert {value} {source} to {target}.|How many {target} are {value} {source}?"
        "|What is {value} {source} in {target}?",
        lambda values, rng: {"result": round(values["value"] * rng.uniform(0.3, 3), 1)},
        "{value} {source} are {result} {target}.|That is {result} {target}.",
    ),
    Skill(
        "set_light|turn_light|light_switch|control_light",
        "Switch a light on or off|Turn the light in a room on or off",
        {"room": ("room|location|where", STRING), "on": ("on|state|enabled", BOOLEAN)},
        lambda rng: {"room": rng.choice(ROOMS), "on": True, "said": "on"} if rng.random() < 0.5
        else {"room": rng.choice(ROOMS), "on": False, "said": "off"},
        "Turn {said} the light in the {room}.|Switch {said} the {room} light.|Turn the {room} lights {said}."
        "|{room} light {said}, please.",
        lambda values, rng: {"status": "ok"},
        "The light in the {room} is now {said}.|Done. The {room} light is {said}.",
    ),
    Skill(
        "set_thermostat|set_temperature|heating|setThermostat",
        "Set the temperature of a room|Set the thermostat",
        {"temperature": ("temperature|degrees|value", INTEGER), "room": ("room|zone|location", STRING)},
        lambda rng: {"temperature": rng.randint(15, 28), "room": rng.choice(ROOMS)},
        "Set the {room} to {temperature} degrees.|Make the {room} {temperature} degrees warm."
        "|Heat the {room} to {temperature} degrees.",
        lambda values, rng: {"status": "ok"},
        "The {room} is set to {temperature} degrees.|Done, {temperature} degrees in the {room}.",
    ),
    Skill(
        "find_recipe|search_recipes|get_recipe|recipe",
        "Find a recipe|Find a recipe with an ingredient",
        {"food": ("ingredient|food|query|dish", STRING)},
        lambda rng: {"food": rng.choice(FOODS)},
        "Find a recipe with {food}.|What can I cook with {food}?|I have {food}. What can I make?"
        "|Give me a recipe for {food}.",
        lambda values, rng: {"recipe": f"{phrase(rng)} {rng.choice(('Soup', 'Pie', 'Salad', 'Stew', 'Cake'))}",
        "minutes": rng.randint(5, 90)},
        "How about {recipe}? It takes {minutes} minutes.|You could make {recipe} in {minutes} minutes.",
        (),
        ("Find me a recipe.|What should I cook?", "food", "What ingredient do you have?|With which ingredient?"),
    ),
    Skill(
        "get_news|news|latest_news|headlines",
        "Get the latest news|Get news about a topic",
        {"topic": ("topic|category|subject", STRING)},
        lambda rng: {"topic": rng.choice(NEWS)},
        "What's new in {topic}?|Give me the latest {topic} news.|News about {topic}?|Any {topic} news today?",
        lambda values, rng: {"headline": phrase(rng) + " " + rng.choice((
            "opens today", "wins the prize", "comes back", "is on tour"))},
        "The top story is: {headline}.|Here is the news: {headline}.",
    ),
    Skill(
        "order_pizza|pizza|buy_pizza|orderPizza",
        "Order a pizza|Order pizza for delivery",
        {"size": ("size|pizza_size", {"type":
            "string", "enum": ["small", "medium", "large"]}), "topping": ("topping|flavor|kind", STRING),
         "quantity": ("quantity|count|number", INTEGER)},
        lambda rng: {"size": rng.choice((
            "small", "medium", "large")), "topping": rng.choice(("cheese", "mushrooms", "ham", "onions", "olives",
                     "peppers", "tomatoes", "spinach")), "quantity": rng.randint(2, 6)},
        "Order {quantity} {size} pizzas with {topping}.|I want {quantity} {size} pizzas with {topping}."
        "|Get me a {size} pizza with {topping}."
        "|I'd like a {size} pizza with {topping}, please.",
        lambda values, rng: {"status": "ordered", "minutes": rng.randint(15, 60)},
        "Your order is placed. It will arrive in {minutes} minutes.|Done! The pizza comes in {minutes} minutes.",
        ("quantity",),
    ),
    Skill(
        "book_table|reserve_table|make_reservation|bookTable",
        "Book a table at a restaurant|Reserve a table",
        {"restaurant": ("restaurant|name|place", STRING),
        "people": ("people|guests|party_size", INTEGER), "time": ("time|at|hour", STRING)},
        _table,
        "Book a table for {people} at {restaurant} at {said}."
        "|Reserve a table at {restaurant} for {people} people at {said}."
        "|I need a table for {people} at {said} at {restaurant}.",
        lambda values, rng: {"status": "confirmed", "code": _order_number(rng)},
        "Your table at {restaurant} is booked. The code is {code}.|Done. The confirmation code is {code}.",
    ),
    Skill(
        "get_directions|directions|route|find_route",
        "Get directions between two places|Find a route",
        {"origin": ("origin|from|start", STRING), "destination": ("destination|to|end", STRING),
         "mode": ("mode|by|travel_mode", {"type": "string", "enum": ["driving", "walking", "cycling"]})},
        _route,
        "How do I get from {origin} to {destination}?|Directions from {origin} to {destination}."
        "|Show me the way from {origin} to {destination}."
        "|I am {mode} from {origin} to {destination}. Which way?"
        "|How long is it from {origin} to {destination} if I am {mode}?",
        lambda values, rng: {"kilometers": rng.randint(5, 999), "minutes": rng.randint(5, 600)},
        "It is {kilometers} kilometers and takes {minutes} minutes."
        "|The way to {destination} is {kilometers} kilometers long.",
        ("mode",),
    ),
    Skill(
        "random_number|get_random_number|roll|random_int",
        "Return a random number|Draw a random number between two bounds",
        {"low": ("min|low|start", INTEGER), "high": ("max|high|end", INTEGER)},
        _bounds,
        "Give me a random number between {low} and {high}.|Pick a number from {low} to {high}."
        "|Random number between {low} and {high}, please.",
        lambda values, rng: {"number": rng.randint(values["low"], values["high"])},
        "Your number is {number}.|I picked {number}.|The number is {number}.",
    ),
    Skill(
        "get_order_status|order_status|track_order|trackPackage",
        "Get the status of an order|Track an order",
        {"order": ("order_id|id|order_number|number", STRING)},
        lambda rng: {"order": _order_number(rng)},
        "Where is my order {order}?|What is the status of order {order}?|Track {order}."
        "|Has order {order} been shipped?",
        lambda values, rng: {"status": rng.choice((
            "shipped", "on its way", "delivered", "being packed", "delayed")), "days": rng.randint(1, 9)},
        "Order {order} is {status}.|Your order is {status}.",
        (),
        ("Where is my order?|Can you track my order?",
        "order", "What is the order number?|Please tell me the order number."),
    ),
    Skill(
        "define|get_definition|dictionary|lookup_word",
        "Look up a word in the dictionary|Get the definition of a word",
        {"word": ("word|term|text", STRING)},
        lambda rng: {"word": rng.choice(WORDS)},
        "What does {word} mean?|Define {word}.|Look up the word {word}.|What is the meaning of {word}?",
        lambda values, rng: {"definition":
            f"{rng.choice(('a kind of', 'something like a', 'a word for a'))} {_words(rng, 2)}"},
        "The dictionary says: {definition}.|{word} means {definition}.",
    ),
    Skill(
        "read_file|open_file|get_file|cat",
        "Read a file|Return the contents of a file",
        {"path": ("path|file|filename", STRING)},
        _file,
        "Read the file {path}.|Open {path}.|What is in {path}?|Show me {path}.",
        lambda values, rng: {"content": _words(rng, rng.randint(2, 5))},
        "The file says: {content}.|It contains: {content}.",
    ),
    Skill(
        "add_to_shopping_list|add_items|shopping_list_add|buy",
        "Add items to the shopping list|Put things on the shopping list",
        {"items": ("items|products|things", {"type": "array", "items": {"type": "string"}})},
        _groceries,
        "Add {said} to my shopping list.|Put {said} on the shopping list.|I need to buy {said}.|We are out of {said}.",
        lambda values, rng: {"status": "ok", "total": rng.randint(3, 20)},
        "I added {said} to your shopping list.|Done. {said} is on the list.",
    ),
    Skill(
        "get_user|find_user|lookup_contact|get_contact",
        "Find a person in the contacts|Get the details of a contact",
        {"name": ("name|person|full_name", STRING)},
        lambda rng: {"name": person(rng)},
        "What is {name}'s phone number?|Find the contact {name}.|Look up {name}.|How can I reach {name}?",
        lambda values, rng: {"phone": f"{rng.randint(200, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"},
        "The number of {name} is {phone}.|You can reach {name} at {phone}.",
    ),
    Skill(
        "list_files|ls|get_files|list_directory",
        "List the files in a folder|List files",
        {"path": ("path|folder|directory", STRING)},
        lambda rng: {"path": rng.choice(("notes", "docs", "data", "photos", "music", "src", "home", "projects"))},
        "List the files in {path}.|What files are in {path}?|Show the folder {path}.|What is in the {path} folder?",
        lambda values, rng: {"files": [_file(rng)["path"].split("/")[1] for _ in range(rng.randint(1, 3))]},
        "I found these files: {files}.|The folder has: {files}.",
    ),
)  # fmt: skip


def dress(skill: Skill, rng: random.Random, taken: set[str]) -> Dressed:
    """Choose a skill's names for one chat."""
    options = [name for name in skill.names.split("|") if name not in taken]
    name = options[0] if rng.random() < 0.3 else rng.choice(options)
    spellings = {slot: choice.split("|") for slot, (choice, _) in skill.slots.items()}
    slots = {slot: words[0] if rng.random() < 0.4 else rng.choice(words) for slot, words in spellings.items()}
    properties = {slots[slot]: schema for slot, (_, schema) in skill.slots.items()}
    required = [slots[slot] for slot in skill.slots if slot not in skill.optional]
    tool = function(name, _one(skill.descriptions, rng), properties, required)
    return Dressed(skill, name, slots, tool)


def toolbox(rng: random.Random, count: int) -> list[Dressed]:
    """Return some tools with names that differ."""
    taken: set[str] = set()
    box = []
    for skill in rng.sample(SKILLS, count):
        dressed = dress(skill, rng, taken)
        taken.add(dressed.name)
        box.append(dressed)
    return box


def _wanted(skill: Skill, ask: str, values: Values) -> list[str]:
    """Return the slots that a request fills: all required ones and the optional ones that it mentions."""
    return [slot for slot in skill.slots if slot not in skill.optional or "{" + slot + "}" in ask]


def _fill(template: str, values: Values) -> str:
    """Put values into a sentence and give it a capital."""
    plain = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in values.items()}
    text = template.format(**plain)
    return text if template[0] == "{" and not text[0].isalpha() else text[0].upper() + text[1:]


def _reply(skill: Skill, values: Values, result: Values, rng: random.Random) -> str:
    """Return the sentence that reports a result."""
    return _fill(_one(skill.replies, rng), {**values, **result})


def single(dressed: Dressed, rng: random.Random) -> list[Message]:
    """Return a request, its call, the result and the reply; sometimes the call comes after a question."""
    skill = dressed.skill
    values = skill.draw(rng)
    if skill.question and rng.random() < 0.2:
        vague, slot, back = skill.question
        answer = _one("{0}|{0}, please.|{0}.|In {0}." if slot == "city" else "{0}|{0}, please.", rng)
        said = values.get("said", values[slot])
        opening = [user(_one(vague, rng)), assistant(_one(back, rng)), user(answer.format(said))]
        wanted = [s for s in skill.slots if s not in skill.optional]
    else:
        ask = _one(skill.asks, rng)
        text = ask.format(**{k: ", ".join(v) if isinstance(v, list) else v for k, v in values.items()})
        opening = [
            user(
                text
                if rng.random() < 0.85
                else "Please " + text[0].lower() + text[1:]
                if text[0:3] in ("Set", "Add", "Sen", "Tur", "Con", "Fin", "Rea")
                else text
            )
        ]
        wanted = _wanted(skill, ask, values)
    result = skill.result(values if "unit" in wanted or "unit" not in values else {}, rng)
    invoke = call(dressed.name, dressed.arguments(values, wanted))
    return [*opening, invoke, tool_result(result), assistant(_reply(skill, values, result, rng))]


def parallel(dressed: Dressed, rng: random.Random) -> list[Message]:
    """Return a request that needs the same function twice, called in one go."""
    first, second = rng.sample(CITIES, 2)
    what = "weather" if "get_weather" in dressed.skill.names else "time"
    ask = _one(
        f"What is the {what} in {{0}} and in {{1}}?|Compare the {what} in {{0}} and {{1}}."
        f"|Tell me the {what} in {{0}} and {{1}}.",
        rng,
    )
    results = [dressed.skill.result({}, rng) for _ in range(2)]
    items = [(dressed.name, {dressed.slots["city"]: city}) for city in (first, second)]
    reply = " ".join(_reply(dressed.skill, {"city": c}, r, rng) for c, r in zip((first, second), results, strict=True))
    return [user(ask.format(first, second)), calls(items), *map(tool_result, results), assistant(reply)]


NO_TOOL = (
    "I'm sorry, I have no tool for that.|Sorry, none of my tools can do that.|I can't do that with the tools I have."
)


def missing(box: list[Dressed], rng: random.Random) -> list[Message]:
    """Return a request for which the chat has no tool."""
    names = {dressed.skill.names for dressed in box}
    skill = rng.choice([skill for skill in SKILLS if skill.names not in names])
    values = {k: ", ".join(v) if isinstance(v, list) else v for k, v in skill.draw(rng).items()}
    return [user(_one(skill.asks, rng).format(**values)), assistant(_one(NO_TOOL, rng))]


SMALL_TALK = (
    phrases.greeting,
    phrases.persona,
    phrases.thanks,
    phrases.farewell,
    phrases.joke,
    phrases.capital,
    phrases.fact,
)


def make(rng: random.Random) -> tuple[list[Message], list[Tool]]:
    """Return a chat of one to four exchanges with tools at hand."""
    box = toolbox(rng, rng.choice((1, 1, 1, 2, 2, 3, 4, 5)))
    messages: list[Message] = []
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        dressed = rng.choice(box)
        luck = rng.random()
        if luck < 0.16:
            messages += rng.choice(SMALL_TALK)(rng)
        elif luck < 0.23:
            messages += missing(box, rng)
        elif luck < 0.32 and re.match("get_weather|get_time", dressed.skill.names):
            messages += parallel(dressed, rng)
        else:
            messages += single(dressed, rng)
    if messages[-1]["role"] == "assistant" and rng.random() < 0.2:
        messages += phrases.thanks(rng)
    prompt = phrases.system_prompt(rng, 0.4)
    return [system(prompt), *messages] if prompt else messages, [dressed.tool for dressed in box]
