"""Turning task dialogues into chats: system prompt, tools, calls, shortened results, tidy replies."""

from __future__ import annotations

import datetime
import random
import re
from dataclasses import dataclass, field
from typing import Any

import phrases
from chat import Message, Tool, assistant, call, function, system, tool_result, user
from substitute import FIRST_DAY, substitute

Dialogue = dict[str, Any]
Services = dict[str, list[dict[str, Any]]]

INTEGERS = set(
    """party_size number_of_tickets number_of_seats number_of_riders number_of_rooms number_of_days number_of_adults
    number_of_beds number_of_baths number_stops passengers travelers group_size transfers star_rating wait_time
    approximate_ride_duration humidity precipitation temperature wind year""".split()
)
NUMBERS = set("amount average_rating balance fare price price_per_night rating rent ride_fare total_price".split())
BOOLEANS = set(
    """has_live_music serves_alcohol subtitles refundable shared_ride good_for_kids free_entry has_wifi pets_allowed
    is_unisex has_laundry_service pets_welcome furnished offers_cosmetic_services is_redeye""".split()
)
ENUMS = {
    "account_type": ["checking", "savings"],
    "recipient_account_type": ["checking", "savings"],
    "price_range": ["inexpensive", "moderate", "expensive", "very expensive"],
    "playback_device": ["TV", "kitchen speaker", "bedroom speaker"],
    "show_type": ["regular", "3d", "imax"],
    "event_type": ["Music", "Sports"],
    "ride_type": ["Pool", "Regular", "Luxury"],
    "seating_class": ["Economy", "Premium Economy", "Business"],
    "fare_type": ["Economy", "Economy extra", "Flexible"],
    "car_type": ["Compact", "Standard", "Full-size"],
}
# Functions that do something, rather than look something up: their result says whether it worked.
ACTIONS = set(
    """ReserveRestaurant BuyEventTickets GetRide BookAppointment ReserveHotel BuyBusTicket ReserveCar AddEvent PlayMovie
    PlayMedia PlaySong ScheduleVisit BookHouse TransferMoney ReserveOnewayFlight ReserveRoundtripFlights""".split()
)
# Read only where the result differs from what was asked for.
FAILURE = re.compile(
    r"sorry|unfortunate|apolog|unsuccess|unable|unavailable|fail|booked at|fully booked|cannot|no luck|wrong|error"
    r"|not (been )?(success|able|possible|complet|go through|available|made|booked|work)|n't",
    re.IGNORECASE,
)
COUNT = re.compile(
    r"\b(?:found|there are|there's|there is|have|got|yielded|of the|are|shows)\b[^.?!\d]{0,20}\b(\d{1,2})\b", re.I
)
KEYWORDS = {
    "has_live_music": "music", "serves_alcohol": "alcohol|liquor|drink", "subtitles": "subtitle|caption",
    "refundable": "refund", "shared_ride": "share", "good_for_kids": "kid|child", "free_entry": "free|fee|entry|cost",
    "has_wifi": "wifi|wi-fi|internet", "pets_allowed": "pet", "pets_welcome": "pet", "is_unisex": "unisex",
    "has_laundry_service": "laundry", "furnished": "furnish", "offers_cosmetic_services": "cosmetic",
    "is_redeye": "red-eye|redeye|red eye|overnight",
}  # fmt: skip
FUNCTION_NAMES = {
    "FindRestaurants": "search_restaurants find_restaurant findRestaurants restaurant_search",
    "ReserveRestaurant": "book_table reserve_table book_restaurant make_reservation",
    "GetWeather": "get_weather weather get_forecast check_weather get_current_weather",
    "FindMovies": "search_movies find_movie list_movies",
    "GetTimesForMovie": "get_show_times movie_times find_showtimes",
    "FindEvents": "search_events find_event list_events",
    "BuyEventTickets": "buy_tickets book_event order_tickets",
    "GetEventDates": "event_dates when_is_event",
    "GetRide": "book_taxi call_cab request_ride order_ride",
    "BookAppointment": "make_appointment schedule_appointment create_booking",
    "FindProvider": "search_provider find_professional lookup_provider",
    "SearchHotel": "find_hotel hotel_search search_hotels",
    "ReserveHotel": "book_hotel reserve_room hotel_booking",
    "FindAttractions": "search_attractions things_to_do list_sights",
    "GetCarsAvailable": "search_cars find_rental_car list_cars",
    "ReserveCar": "rent_car book_car reserve_rental",
    "BuyBusTicket": "book_bus buy_bus_ticket order_bus_ticket",
    "FindBus": "search_buses find_bus bus_search",
    "CheckBalance": "get_balance check_balance account_balance",
    "TransferMoney": "send_money make_transfer transfer",
    "FindApartment": "search_apartments find_home apartment_search",
    "ScheduleVisit": "book_viewing plan_visit schedule_visit",
    "SearchOnewayFlight": "search_flights find_flight oneway_flights",
    "SearchRoundtripFlights": "search_round_trips find_return_flight roundtrip_flights",
    "ReserveOnewayFlight": "book_flight reserve_flight",
    "ReserveRoundtripFlights": "book_round_trip reserve_return_flight",
    "LookupMusic": "search_music find_song lookup_music",
    "LookupSong": "search_songs find_song song_lookup",
    "PlayMedia": "play play_media start_song",
    "PlaySong": "play_song play_track start_music",
    "PlayMovie": "play_movie start_movie watch_movie",
    "GetEvents": "list_events get_calendar show_events",
    "GetAvailableTime": "free_slots get_free_time check_availability",
    "AddEvent": "create_event add_to_calendar new_event",
    "SearchHouse": "find_house search_houses holiday_homes",
    "BookHouse": "book_house reserve_house rent_house",
}
SLOT_NAMES = {
    "city": "town location city_name place", "location": "city town place area", "cuisine": "food_type kind_of_food",
    "party_size": "people guests num_people", "restaurant_name": "restaurant name venue", "date": "day on_date",
    "time": "at_time hour start_time", "destination": "to where_to place", "origin": "from start from_city",
    "number_of_seats": "seats num_seats passengers", "number_of_tickets": "tickets num_tickets quantity",
    "number_of_rooms": "rooms num_rooms", "hotel_name": "hotel name", "event_name": "event title name",
    "song_name": "song title track", "artist": "singer by_artist performer", "genre": "kind style category",
    "title": "movie movie_title name", "price_range": "price budget", "category": "kind type_of_event",
    "account_type": "account from_account", "amount": "sum money value", "event_date": "date day",
    "appointment_date": "date day", "appointment_time": "time at", "departure_date": "date leaving_on day",
    "return_date": "back_on return_day", "pickup_city": "city town", "pickup_date": "start_date from_date",
    "dropoff_date": "end_date until", "pickup_time": "start_time at", "check_in_date": "arrival start_date",
    "check_out_date": "departure end_date", "movie_name": "movie film title", "show_date": "date day",
    "playback_device": "device speaker", "origin_city": "from from_city origin", "destination_city": "to to_city",
}  # fmt: skip


@dataclass
class Style:
    """How a chat is dressed: which tools are listed, under which names, and what the system prompt says."""

    tools: bool = True
    rename: bool = False
    enums: bool = True
    distractors: int = 0
    today: datetime.date | None = None
    system: str | None = None
    functions: dict[str, str] = field(default_factory=dict)
    slots: dict[str, str] = field(default_factory=dict)


def typed(slot: str, value: str) -> Any:
    """Return a slot's value with its proper JSON type."""
    if slot in BOOLEANS and value in ("True", "False"):
        return value == "True"
    if (slot in INTEGERS or slot in NUMBERS) and re.fullmatch(r"\d+(\.\d+)?", value):
        number = float(value)
        return int(number) if number == int(number) else number
    if slot == "playback_device" and value != "TV":
        return value.lower()
    return value


def tidy(text: str, reply: bool) -> str:
    """Clean a turn's words; the assistant's also get a capital and a full stop."""
    text = re.sub(r"\s+", " ", text).strip()
    if not reply:
        return text
    fixes = {
        r"\bi\b": "I", r"\bAny thing\b": "Anything", r"\bany thing\b": "anything", r"^Your welcome": "You're welcome",
        r"\bDO\b": "Do", r"\bdont\b": "don't", r"\bIts (a|the|at|on|in|an)\b": r"It's \1", r"\bWhats\b": "What's",
        r" ([,.?!])": r"\1", r"\bu\b": "you",
    }  # fmt: skip
    text = text.lstrip(".,;:!? ")
    for pattern, better in fixes.items():
        text = re.sub(pattern, better, text)
    text = re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    return text if not text or text[-1] in '.?!"' else text + "."


def mentioned(slot: str, value: str, words: str) -> bool:
    """Tell whether a field of a result is talked about in the (lower-case) words that follow."""
    if slot in BOOLEANS:
        return bool(re.search(KEYWORDS[slot], words))
    if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return bool(re.search(rf"\b{int(value[8:])}(st|nd|rd|th)\b", words))
    if re.fullmatch(r"\d\d:\d\d", value):
        hour, minute = int(value[:2]), value[3:]
        clock = str((hour - 1) % 12 + 1) + ("" if minute == "00" else f":{minute}")
        return bool(re.search(rf"\b{clock}\b|\b{value}\b", words))
    forms = {value.lower(), value.lower().removesuffix("0").removesuffix(".0")}
    if re.fullmatch(r"\d{4,}(\.\d+)?", value):
        forms.add(f"{float(value):,.2f}" if "." in value else f"{int(value):,}")
    return any(re.search(rf"(?<![\w.]){re.escape(form)}(?!\w)", words) for form in forms)


def shorten(record: dict[str, str], words: str, rng: random.Random) -> dict[str, Any]:
    """Keep the fields of a result that are talked about, its name and one or two others."""
    keys = list(record)
    names = [k for k in keys if k.endswith("_name") or k in ("title", "airlines", "car_name", "address")][:1]
    keep = {k for k in keys if mentioned(k, record[k], words)} | set(names)
    rest = [k for k in keys if k not in keep]
    keep |= set(rng.sample(rest, min(len(rest), rng.choice((0, 1, 1, 2)))))
    return {k: typed(k, record[k]) for k in keys if k in keep}


def _outcome(turn: dict[str, Any], words: str, rng: random.Random) -> dict[str, Any]:
    """Return the result of an action, with a status that agrees with the reply."""
    arguments = turn["call"]["arguments"]
    differs = not turn["results"] or any(r.get(k, v) != v for r in turn["results"] for k, v in arguments.items())
    if differs and FAILURE.search(turn["text"]):
        other = [shorten(record, words, rng) for record in turn["results"][:1]]
        return {"status": "failed", **({"alternative": other[0]} if other else {})}
    record = {**(turn["results"][0] if turn["results"] else {}), **arguments}
    return {"status": "success", **shorten(record, words, rng)}


def _answer(turn: dict[str, Any], words: str, rng: random.Random) -> Any:
    """Return what the function gives back, shortened to at most two entries."""
    if turn["call"]["name"] in ACTIONS:
        return _outcome(turn, words, rng)
    records = turn["results"]
    if len(records) > 1 and not _needed(records[1], records[0], words) and rng.random() < 0.5:
        records = records[:1]
    found = [shorten(record, words, rng) for record in records[:2]]
    stated = COUNT.search(turn["text"])
    if stated and int(stated.group(1)) >= len(turn["results"]):
        return {"count": int(stated.group(1)), "results": found}
    return found


def _needed(record: dict[str, str], other: dict[str, str], words: str) -> bool:
    """Tell whether something that only this record holds is talked about."""
    return any(v != other.get(k) and k not in BOOLEANS and mentioned(k, v, words) for k, v in record.items())


def _property(slot: str, service: str, style: Style) -> dict[str, Any]:
    """Return the JSON schema of a slot."""
    kind = (
        "integer" if slot in INTEGERS else "number" if slot in NUMBERS else "boolean" if slot in BOOLEANS else "string"
    )
    enum = ENUMS["car_type"] if service == "RentalCars_1" and slot == "type" else ENUMS.get(slot)
    return {"type": kind, "enum": enum} if enum and style.enums else {"type": kind}


def make_tools(names: list[str], services: Services, style: Style) -> list[Tool]:
    """Return the tools of the services named, under the style's names."""
    tools = []
    for service in names:
        for intent in services[service]:
            slots = [*intent["required"], *intent["optional"]]
            schema = {style.slots.get(slot, slot): _property(slot, service, style) for slot in slots}
            required = [style.slots.get(slot, slot) for slot in intent["required"]]
            name = style.functions.get(intent["name"], intent["name"])
            tools.append(function(name, intent["description"], schema, required))
    return tools


def _collide(names: list[str], services: Services) -> bool:
    """Tell whether two services offer a function of the same name."""
    functions = [intent["name"] for service in names for intent in services[service]]
    return len(functions) != len(set(functions))


def _listed_services(dialogue: Dialogue, services: Services, style: Style, rng: random.Random) -> list[str]:
    """Return the dialogue's services and a few that it does not need, shuffled."""
    names = list(dict.fromkeys(dialogue["services"]))
    for extra in rng.sample(sorted(services), style.distractors):
        if extra not in names and not _collide([*names, extra], services):
            names.append(extra)
    rng.shuffle(names)
    return names


def _choose_names(dialogue: Dialogue, services: Services, style: Style, rng: random.Random) -> None:
    """Give functions and slots other names, the same in the whole chat and never twice the same."""
    intents = [intent for service in services.values() for intent in service]
    for name in sorted({intent["name"] for intent in intents}):
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        options = [*FUNCTION_NAMES.get(name, "").split(), snake, snake]
        choice = rng.choice(options)
        style.functions[name] = choice if choice not in style.functions.values() else snake
    used = {slot for intent in intents for slot in (*intent["required"], *intent["optional"])}
    for slot in sorted(used & set(SLOT_NAMES)):
        options = [new for new in SLOT_NAMES[slot].split() if new not in used and new not in style.slots.values()]
        if options and rng.random() < 0.5:
            style.slots[slot] = rng.choice(options)


def _renamed(record: Any, style: Style) -> Any:
    """Return a record under the style's slot names."""
    if isinstance(record, dict):
        return {style.slots.get(key, key): _renamed(value, style) for key, value in record.items()}
    return [_renamed(item, style) for item in record] if isinstance(record, list) else record


def to_chat(
    dialogue: Dialogue, services: Services, style: Style, rng: random.Random
) -> tuple[list[Message], list[Tool]]:
    """Return the chat of a dialogue and the tools that it lists."""
    messages: list[Message] = []
    words = [turn["text"].lower() for turn in dialogue["turns"]]
    for position, turn in enumerate(dialogue["turns"]):
        if turn["role"] == "user":
            messages.append(user(tidy(turn["text"], reply=False)))
            continue
        if style.tools and "call" in turn:
            name = style.functions.get(turn["call"]["name"], turn["call"]["name"])
            arguments = {k: typed(k, v) for k, v in turn["call"]["arguments"].items()}
            messages.append(call(name, _renamed(arguments, style)))
            messages.append(tool_result(_renamed(_answer(turn, "\n".join(words[position:]), rng), style)))
        messages.append(assistant(tidy(turn["text"], reply=True)))
    prompt = "\n".join(part for part in (style.system, phrases.date_line(style.today)) if part)
    if prompt:
        messages.insert(0, system(prompt))
    tools = make_tools(_listed_services(dialogue, services, style, rng), services, style) if style.tools else []
    return messages, tools


def augmented(dialogue: Dialogue, services: Services, rng: random.Random) -> tuple[list[Message], list[Tool]]:
    """Return one training variant of a dialogue, with values, names and dress drawn at random."""
    tools = rng.random() < 0.68 and not _collide(list(dict.fromkeys(dialogue["services"])), services)
    changed, today = substitute(dialogue, rng, redate=tools and rng.random() < 0.3)
    if rng.random() < 0.15:
        changed, today = dialogue, None
    style = Style(tools=tools, rename=tools and rng.random() < 0.35, enums=rng.random() < 0.6, today=today)
    style.distractors = rng.choice((0, 0, 0, 1, 1, 2)) if tools else 0
    style.system = phrases.system_prompt(rng)
    if today is None and tools and rng.random() < 0.2:
        style.today = FIRST_DAY
    if style.rename:
        _choose_names(dialogue, services, style, rng)
    messages, listed = to_chat(changed, services, style, rng)
    if rng.random() < 0.12:
        start = 1 if messages[0]["role"] == "system" else 0
        messages[start:start] = phrases.greeting(rng)
    if rng.random() < 0.05:
        messages += phrases.persona(rng)
    return messages, listed


def plain(dialogue: Dialogue, services: Services) -> tuple[list[Message], list[Tool]]:
    """Return a dialogue as it is, with its own tools under their own names; used for evaluation."""
    style = Style(tools=not _collide(list(dict.fromkeys(dialogue["services"])), services))
    return to_chat(dialogue, services, style, random.Random(0))
