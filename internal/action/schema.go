package action

import (
	"cmp"
	"reflect"

	"github.com/invopop/jsonschema"
)

// sections are what editors show for the keys of an action's sections.
var sections = map[string]map[string]string{
	"dedup": {
		"key":      "A template: events for which it renders to the same text lead to one call.",
		"window":   "For how long after a successful call others with its key are dropped.",
		"required": "Deliveries wait while Redis is away, in place of going on without dedup. Default: false.",
	},
	"cache": {
		"key":  "A template: events for which it renders to the same text have the same result.",
		"ttl":  "For how long a result is kept.",
		"tags": "Templates: names by which results are invalidated together. Default: none.",
	},
}

// descriptions are what editors show for each key, or for a key of one type.
var descriptions = map[string]string{
	"name":                 "Unique in the observer. Default: the type.",
	"type":                 "The type of the action.",
	"endpoint":             "The place where it goes: a key of endpoints. Default: the URL's host and port, or the type's place.",
	"priority":             "1 (first) to 4. Default: 1.",
	"timeout":              "How long one call may take. Default: 30s.",
	"dedup":                "Of the events with the same key, one within the window leads to a call. Default: each does.",
	"cache":                "A successful result stands for later ones with the same key. Default: none is kept.",
	"url":                  "The target, a template; not its scheme and host. This or url_env is needed. Default: none.",
	"url_env":              "The environment variable that holds the target. Default: none.",
	"method":               "The request's method. Default: POST.",
	"headers":              "Headers to add, templates. Default: Content-Type application/json.",
	"body_template":        "The body; in JSON, by the Content-Type, values are escaped. Default: the whole event.",
	"signing_secret_env":   "The environment variable that holds the secret to sign with. Default: not signed.",
	"signing_secrets_env":  "Environment variables that hold secrets. All sign: for rotation. Default: not signed.",
	"signing_secret":       "The secret itself. Better: signing_secret_env. Default: not signed.",
	"cloudevents":          "Send a CloudEvent 1.0. Default: off.",
	"final_statuses":       "Statuses that are not retried. Default: 3xx, 400, 405, 406, 410, 411, 413, 414, 415, 422, 431, 501.",
	"function_name":        "Schema and name of a function in database.url that takes one jsonb, as PostgreSQL stores them.",
	"params":               "A value of any shape that the function gets beside the event. Default: {}.",
	"level":                "How severe the line is. Default: info.",
	"message_template":     "The message, a template. Default: Event: {{ event_type }} on {{ entity_type }} (ID: {{ entity_id }})",
	"log.message_template": "The line's message, a template. Default: event.",
	"webhook_url":          "The incoming webhook, a template. Better: webhook_url_env, since its path is a secret. Default: none.",
	"webhook_url_env":      "The environment variable that holds the incoming webhook. Default: none.",
	"sms.to":               "The phone's number, as in +15551234567, a template.",
	"from":                 "A number of the account, or the SID of a messaging service (MG…), a template.",
	"sms.provider":         "Who sends it. Default: twilio.",
	"push.provider":        "Who sends it. Default: fcm.",
	"account_env":          "The environment variable that holds the account's SID.",
	"token_env":            "The environment variable that holds the account's auth token.",
	"token":                "The registration token of one device, a template. This or topic is needed. Default: none.",
	"topic":                "The name of a topic, in place of token, a template. Default: none.",
	"title_template":       "The title that the device shows, a template. Default: none.",
	"push.body_template":   "The text that the device shows, a template. Title or text is needed. Default: none.",
	"credentials_env":      "The environment variable that holds the JSON key of a service account.",
	"sms.base_url":         "Where the provider's API is. Default: https://api.twilio.com.",
	"push.base_url":        "Where the provider's API is. Default: https://fcm.googleapis.com.",
	"channel":              "Where the message goes, a template. Default: the webhook's channel.",
	"to":                   "The recipients, templates: a list, or text with commas. Each entry is one address, or empty.",
	"cc":                   "More recipients, as in to. Default: none.",
	"reply_to":             "Where answers go, as in to. Default: none.",
	"subject":              "One line, a template.",
	"html_template":        "The mail in HTML; values are escaped. Default: none.",
	"email.body_template":  "The mail's text. This or html_template is needed. Default: none.",
	"index":                "The index or the alias of the documents, a template.",
	"id_template":          "The document's id. Default: {{ entity_id }}.",
	"document_template":    "The document, a JSON object; values are escaped. Default: the event's data.",
	"action":               "What to do: remove keys and results, or have one result made anew. Default: invalidate.",
	"keys":                 "Keys of the application's Redis, templates. Weir's results with these go, too. Default: none.",
	"key_pattern":          "The same for all that match, as in order:{{ entity_id }}:*. Values match themselves. Default: none.",
	"tags":                 "Tags of Weir's results, templates. Default: none.",
	"webhook":              "With refresh: the action with cache: whose result is made anew, OBSERVER/ACTION. Default: none.",
}

// JSONSchema describes the types of actions to editors.
func (Config) JSONSchema() *jsonschema.Schema {
	reflector := jsonschema.Reflector{
		FieldNameTag: "yaml", DoNotReference: true, Anonymous: true, RequiredFromJSONSchemaTags: true,
	}
	union := &jsonschema.Schema{Description: "What to do about an event."}
	for _, kind := range Types() {
		one := reflector.ReflectFromType(reflect.TypeOf(newSpec(kind)).Elem())
		one.Version, one.Title = "", kind
		if noResult[kind] != "" {
			one.Properties.Delete("cache")
		}
		for pair := one.Properties.Oldest(); pair != nil; pair = pair.Next() {
			pair.Value.Description = cmp.Or(descriptions[kind+"."+pair.Key], descriptions[pair.Key])
			describe(pair.Value, sections[pair.Key])
		}
		if typ, ok := one.Properties.Get("type"); ok {
			typ.Const = kind
		}
		union.OneOf = append(union.OneOf, one)
	}
	return union
}

// describe gives the keys of a section their descriptions.
func describe(section *jsonschema.Schema, keys map[string]string) {
	for key, description := range keys {
		if property, ok := section.Properties.Get(key); ok {
			property.Description = description
		}
	}
}
