"""Made-up values (names, places, numbers) that stand in for the ones in the corpus.

A small model learns a corpus by heart sooner than it learns to copy. When every pass over a dialogue brings other
restaurants, cities and numbers, copying from the conversation is the only thing left to learn.
"""

from __future__ import annotations

import random
import re

from wordlist import items

CITIES = items("""Aberdeen|Adelaide|Albany|Albuquerque|Alameda|Amsterdam|Anchorage|Antwerp|Arlington|Asheville|Athens
Auckland|Austin|Baltimore|Bangkok|Barcelona|Basel|Bath|Belfast|Bellevue|Bergen|Berlin|Bern|Bilbao|Birmingham|Boise
Bologna|Bordeaux|Boston|Boulder|Bremen|Brighton|Brisbane|Bristol|Bruges|Brussels|Bucharest|Budapest|Buenos Aires
Buffalo|Burlington|Cairo|Calgary|Cambridge|Canberra|Cape Town|Cardiff|Charleston|Charlotte|Chattanooga|Cincinnati
Cleveland|Cologne|Columbus|Copenhagen|Cork|Cusco|Dallas|Dayton|Delhi|Denver|Des Moines|Detroit|Dover|Dresden|Dublin
Durham|Edinburgh|El Paso|Eugene|Florence|Fort Worth|Frankfurt|Galway|Geneva|Genoa|Ghent|Glasgow|Gothenburg|Granada
Graz|Halifax|Hamburg|Hanoi|Harrisburg|Hartford|Havana|Helena|Helsinki|Hobart|Hong Kong|Honolulu|Houston|Indianapolis
Innsbruck|Istanbul|Jacksonville|Jakarta|Johannesburg|Kansas City|Knoxville|Krakow|Kyoto|Lancaster|Lausanne|Leeds
Leipzig|Lima|Lincoln|Linz|Lisbon|Little Rock|Liverpool|Ljubljana|Louisville|Lucerne|Lyon|Madison|Madrid|Malaga
Manchester|Manila|Marseille|Melbourne|Memphis|Miami|Milan|Milwaukee|Minneapolis|Mobile|Monterey|Montreal|Mumbai|Munich
Nairobi|Nantes|Naples|Nashville|New Haven|New Orleans|Nice|Norfolk|Nottingham|Oklahoma City|Olympia|Omaha|Orlando
Osaka|Oslo|Ottawa|Oxford|Palermo|Palo Alto|Pasadena|Perth|Phoenix|Pisa|Pittsburgh|Plymouth|Porto|Prague|Providence
Quebec|Raleigh|Reno|Reykjavik|Richmond|Riga|Rochester|Rome|Rotterdam|Sacramento|Salem|Salt Lake City|Salzburg
San Antonio|Santa Barbara|Santa Cruz|Santa Fe|Santiago|Savannah|Seoul|Seville|Shanghai|Sheffield|Siena|Singapore|Sofia
Spokane|Springfield|St. Louis|Stanford|Stockholm|Stuttgart|Sydney|Syracuse|Tacoma|Tallinn|Tampa|Tokyo|Toledo|Toronto
Toulouse|Trenton|Trieste|Tucson|Tulsa|Turin|Utrecht|Valencia|Vancouver|Venice|Verona|Vienna|Vilnius|Warsaw|Wellington
Wichita|Winnipeg|York|Zagreb|Zurich|San Francisco|San Jose|New York|Los Angeles|Chicago|Seattle|Portland|Oakland
Berkeley|San Diego|Philadelphia|Atlanta|Las Vegas|London|Paris|Washington D.C.|Fresno|Napa|Long Beach|Anaheim
Mexico City|Santa Rosa|Sunnyvale|Fremont|Hayward|Concord|Fairfield|Mountain View|Walnut Creek""")

GIRLS = items("""Ada|Alice|Amelia|Amy|Anna|Aria|Ava|Beth|Bella|Cara|Clara|Daisy|Dora|Ella|Elsa|Emma|Eva|Fay
Flora|Freya|Gina
Grace|Hana|Hazel|Holly|Ida|Iris|Isla|Ivy|Jane|Jill|Joy|Julia|Kate|Kim|Lara|Lea|Lena|Lila|Lily|Lina|Lola|Lucy|Luna
Maria|Mary|Maya|Mia|Mila|Molly|Nana|Nina|Nora|Olive|Pia|Pippa|Rosa|Rose|Ruby|Ruth|Sally|Sara|Sofia|Stella|Sue|Tess|Tia
Tina|Vera|Willow|Zoe""")
BOYS = items("""Adam|Alex|Andy|Arlo|Ben|Bill|Billy|Bob|Bobby|Carl|Charlie|Dan|Danny|David|Eddie|Eli|Emil
Ethan|Felix|Finn
Frank|Fred|Gus|Hans|Harry|Henry|Hugo|Ian|Jack|Jake|James|Jay|Jim|Jimmy|Joe|Joel|John|Jonas|Karl|Kevin|Kai|Lars|Leo
Liam|Louis|Luca|Luke|Mark|Mateo|Max|Mike|Milo|Nick|Noah|Oliver|Omar|Oscar|Otto|Paul|Pete|Peter|Ravi|Rob|Sam|Simon
Spencer|Ted|Theo|Tim|Timmy|Toby|Tom|Tommy|Victor|Will|Zack""")
SURNAMES = items("""Abbott|Adler|Baker|Bauer|Bennett|Berg|Bishop|Blake|Brooks|Carter|Castro|Chen|Clark|Costa|Cruz|Dalton
Diaz|Dubois|Ellis|Evans|Farrell|Fischer|Flores|Foster|Garcia|Gibson|Grant|Gray|Haas|Hall|Hansen|Harper|Hayes|Hill
Hughes|Ivanov|Jensen|Kaplan|Keller|Khan|Kim|King|Klein|Lambert|Larsen|Lee|Lopez|Lynch|Marino|Martin|Mason|Meyer|Moore
Moreau|Murphy|Nakamura|Nelson|Nguyen|Novak|Ortiz|Palmer|Park|Patel|Perez|Price|Quinn|Reed|Rivera|Rossi|Sato|Schmidt
Shaw|Silva|Singh|Stone|Suzuki|Tanaka|Taylor|Torres|Turner|Vega|Wagner|Walker|Ward|Weber|Wells|West|White|Wong|Young
Ziegler""")
ADJECTIVES = items("""Amber|Blue|Bright|Broken|Copper|Crimson|Crystal|Distant|Emerald|Endless|Falling|Forgotten|Gentle
Golden|Grand|Green|Happy|Hidden|Hollow|Hungry|Ivory|Jade|Last|Little|Lonely|Long|Lost|Lucky|Midnight|Old|Painted|Pale
Purple|Quiet|Rapid|Red|Royal|Rusty|Sacred|Salty|Scarlet|Second|Secret|Silent|Silver|Sleepy|Slow|Smoky|Spicy|Summer
Sunny|Sweet|Tall|Twin|Velvet|Wandering|Warm|White|Wild|Winter|Wooden|Yellow""")
NOUNS = items("""Anchor|Apple|Arrow|Bamboo|Bear|Bell|Bird|Bridge|Candle|Canyon|Castle|Cedar|Cloud|Compass
Coral|Crane|Creek
Crown|Dragon|Eagle|Feather|Fern|Field|Fire|Fox|Garden|Gate|Harbor|Hawk|Heart|Hill|Horizon|Island|Lagoon|Lake|Lantern
Leaf|Lemon|Lighthouse|Lion|Lotus|Maple|Meadow|Mirror|Moon|Mountain|Oak|Ocean|Olive|Orchid|Owl|Palm|Peacock|Pearl
Pepper|Pine|Pond|Rain|Raven|River|Road|Rose|Saffron|Shadow|Ship|Sky|Star|Stone|Storm|Street|Sun|Tiger|Tower|Train|Tree
Tulip|Valley|Violet|Wave|Whale|Willow|Wind|Window|Wolf""")
STREETS = items("""Birch|Cedar|Chapel|Cherry|Chestnut|Church|Elm|Forest|Franklin|Garden|Grove|Harbor|High|Hill|Jackson
Jefferson|King|Lake|Laurel|Liberty|Lincoln|Madison|Main|Maple|Market|Meadow|Mill|Mission|Monroe|Oak|Orchard|Park|Pearl
Pine|Prospect|Queen|River|School|Spring|Spruce|Station|Summit|Sunset|Union|Valley|Walnut|Washington|Water|Willow
Wilson""")
ROADS = ("Street", "Avenue", "Road", "Drive", "Lane", "Boulevard", "Way", "Court", "Place")

# Which slots and result fields hold which kind of value.
KINDS = {
    "city": """city location destination city_of_event area where_to from_location to_location origin origin_city
               destination_city pickup_city""",
    "restaurant": "restaurant_name",
    "hotel": "hotel_name",
    "home": "property_name",
    "event": "event_name",
    "doctor": "doctor_name",
    "dentist": "dentist_name",
    "stylist": "stylist_name",
    "song": "song_name album title movie_name",
    "person": "artist directed_by",
    "first_name": "recipient_account_name",
    "theater": "theater_name",
    "venue": "venue event_location attraction_name",
    "airport": "origin_airport destination_airport pickup_location",
    "station": "origin_station_name destination_station_name from_station to_station",
    "address": "street_address address venue_address address_of_location",
    "phone": "phone_number",
    "amount": "balance ride_fare rent total_price price_per_night amount price fare",
}
KIND_OF_SLOT = {slot: kind for kind, slots in KINDS.items() for slot in slots.split()}


def first_name(rng: random.Random) -> str:
    """Return a given name."""
    return rng.choice(rng.choice((GIRLS, BOYS)))


def person(rng: random.Random) -> str:
    """Return a full name put together from common parts."""
    return f"{first_name(rng)} {rng.choice(SURNAMES)}"


def phrase(rng: random.Random) -> str:
    """Return a short title such as a song or a restaurant may carry."""
    adjective, noun, other = rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(NOUNS)
    forms = (f"{adjective} {noun}", f"The {adjective} {noun}", f"{noun} And {other}", noun, f"{noun} Of The {other}")
    return rng.choice(forms)


def street_address(rng: random.Random) -> str:
    """Return a house number and a street."""
    return f"{rng.randint(1, 9999)} {rng.choice(STREETS)} {rng.choice(ROADS)}"


def _with_ending(rng: random.Random, endings: str) -> str:
    """Return a name of a business: a phrase or an owner's name and what it is."""
    owner = rng.choice((first_name(rng) + "'s", rng.choice(SURNAMES), rng.choice(SURNAMES) + "'s"))
    return f"{rng.choice((phrase(rng), owner))} {rng.choice(endings.split('|'))}"


def _doctor(rng: random.Random) -> str:
    """Return a doctor's name in one of the ways in which directories print it."""
    name = person(rng)
    return rng.choice((f"Dr. {name}", f"{name}, M.D.", f"{name} MD"))


def _event(rng: random.Random) -> str:
    """Return a concert or a match."""
    teams = rng.sample([noun for noun in NOUNS if noun[-1] not in "shxy"], 2)
    return rng.choice((phrase(rng), person(rng), f"{teams[0]}s Vs {teams[1]}s"))


def new_phone(old: str, rng: random.Random) -> str:
    """Return a number in the form of the old one."""
    digits = iter(str(rng.randint(2, 9)) if i < 1 else str(rng.randint(0, 9)) for i in range(len(old)))
    return re.sub(r"\d", lambda _: next(digits), old)


def new_amount(old: str, rng: random.Random) -> str:
    """Return an amount of money of similar size, with as many decimals."""
    scaled = float(old) * rng.uniform(0.5, 2.0)
    return f"{scaled:.2f}" if "." in old else str(max(3, round(scaled)))


def new_value(kind: str, old: str, rng: random.Random) -> str:
    """Return a made-up value of the kind given."""
    makers = {
        "city": lambda: rng.choice(CITIES),
        "restaurant": lambda: rng.choice(
            (phrase(rng), _with_ending(rng, "Kitchen|Grill|Bistro|Cafe|Restaurant|Diner"))
        ),
        "hotel": lambda: _with_ending(rng, "Hotel|Inn|Suites|Lodge|Hostel|Resort"),
        "home": lambda: _with_ending(rng, "Apartments|Gardens|Village|Residences|Court"),
        "event": lambda: _event(rng),
        "doctor": lambda: _doctor(rng),
        "dentist": lambda: rng.choice((_doctor(rng), _with_ending(rng, "Dental|Dental Care|Family Dentistry|Smiles"))),
        "stylist": lambda: _with_ending(rng, "Salon|Barber Shop|Hair Studio|Cuts"),
        "song": lambda: phrase(rng),
        "person": lambda: person(rng),
        "first_name": lambda: first_name(rng),
        "theater": lambda: _with_ending(rng, "Cinema|Theater|Theatre|Cineplex|Movie House"),
        "venue": lambda: _with_ending(rng, "Hall|Arena|Park|Stadium|Museum|Club"),
        "airport": lambda: f"{rng.choice(SURNAMES)} {rng.choice(('Airport', 'International Airport'))}",
        "station": lambda: f"{rng.choice(STREETS)} {rng.choice(('Station', 'Terminal', 'Depot', 'Transit Center'))}",
        "address": lambda: street_address(rng),
        "phone": lambda: new_phone(old, rng),
        "amount": lambda: new_amount(old, rng),
    }
    return makers[kind]()
