package action

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/elastic/go-elasticsearch/v8/esapi"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
)

// Search keeps a document of an entity in an index of Elasticsearch: it is written when the entity is, and removed with it. Each
// write carries the position of its event as the document's version, and Elasticsearch refuses what is older than what it has.
type Search struct {
	Common `yaml:",inline"`

	// Index is the index or the alias.
	Index *rule.Template `yaml:"index" jsonschema:"required"`
	// IDTemplate is the document's id. Default: {{ entity_id }}.
	IDTemplate *rule.Template `yaml:"id_template,omitempty"`
	// DocumentTemplate is the document, a JSON object. Default: the event's data.
	DocumentTemplate *rule.Template `yaml:"document_template,omitempty"`

	client *elastictransport.Client // nil: there was no section elasticsearch when the worker started
}

const (
	searchType     = "search"
	searchEndpoint = "elasticsearch"

	// What Elasticsearch takes, in bytes.
	maxIndexName  = 255
	maxDocumentID = 512
	// maxAnswer bounds what is read of an answer: it is short, unless it repeats what it refuses.
	maxAnswer = 64 << 10
)

// errNoElasticsearch is of a section elasticsearch that came with a reload, which does not connect.
var errNoElasticsearch = errors.New("the worker was started without a section elasticsearch: restart it")

func (s *Search) check(f fields) []error {
	errs := append(f.missing(searchType, "index", "orders"), notEmpty(f, "index", s.Index)...)
	if s.Index != nil && len(errs) == 0 {
		if name, static := s.Index.Static(); static {
			if err := checkIndexName(name); err != nil {
				errs = append(errs, f.errorAt("index", "%s", err))
			}
		}
	}
	errs = append(errs, notEmpty(f, "id_template", s.IDTemplate)...)
	return append(errs, s.checkDocument(f)...)
}

func (s *Search) checkDocument(f fields) []error {
	const key = "document_template"
	if !f.has(key) {
		return nil
	}
	if errs := notEmpty(f, key, s.DocumentTemplate); len(errs) > 0 {
		return errs
	}
	if err := s.DocumentTemplate.CheckJSON(); err != nil {
		return []error{f.errorAt(key, "%s", err)}
	}
	if text, static := s.DocumentTemplate.Static(); static && !isObject([]byte(text)) {
		return []error{f.errorAt(key, "a document is a JSON object, as in {\"name\": {{ name }}}")}
	}
	return nil
}

// checkIndexName says what Elasticsearch says of names, without asking it. A comma or an asterisk would name several.
func checkIndexName(name string) error {
	const want = "expected lower case, without spaces and any of \\ / * ? \" < > | , # :, not beginning with - _ or +, " +
		"at most 255 bytes"
	switch {
	case name == "", name == ".", name == "..", len(name) > maxIndexName,
		strings.ContainsAny(name, `\/*?"<>| ,#:`), strings.ContainsRune("-_+", rune(name[0])), strings.ToLower(name) != name:
		return fmt.Errorf("%q is no name of an index: %s", shortened(name), want)
	default:
		return nil
	}
}

// shortened keeps the explanation behind a long name within an error's text.
func shortened(name string) string {
	const most = 60
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "…"
}

func (s *Search) warnings() (warnings []string) {
	if s.IDTemplate != nil {
		if _, static := s.IDTemplate.Static(); static {
			warnings = append(warnings, "id_template has no placeholder: every event writes the same document")
		}
	}
	return warnings
}

// Endpoint is "elasticsearch" unless the action names another.
func (s *Search) Endpoint() string { return cmp.Or(s.EndpointName, searchEndpoint) }

func (s *Search) bind(d Deps) Action {
	bound := *s
	if d.Elasticsearch != nil {
		bound.client = d.Elasticsearch.Client()
	}
	return &bound
}

// Do writes or removes the document.
func (s *Search) Do(ctx context.Context, call Call) (event.Outcome, error) {
	w, err := s.render(call)
	if err != nil {
		return event.Outcome{}, err
	}
	if s.client == nil {
		return event.Outcome{}, sick(Retry("elasticsearch_away", errNoElasticsearch))
	}
	if span := recording(ctx); span != nil {
		span.SetName(w.operation())
		span.SetAttributes(
			semconv.DBSystemNameElasticsearch, semconv.DBOperationName(w.operation()), semconv.DBCollectionName(w.index))
	}
	start := time.Now()
	res, err := w.send(ctx, s.client)
	out := event.Outcome{DurationMS: time.Since(start).Milliseconds()}
	if err != nil {
		return out, transportError(ctx, withoutURL(err))
	}
	traceStatus(ctx, res.Status)
	out.ResponseStatus, out.ResponseBody = res.Status, event.Excerpt(res.Body)
	done, err := w.judge(res)
	out.ResponseBody = cmp.Or(done, out.ResponseBody)
	return out, err
}

// withoutURL takes the URL away, which holds the document's id.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return fmt.Errorf("elasticsearch: %w", e.Err)
	}
	return fmt.Errorf("elasticsearch: %w", err)
}

// write is what is to become of one document.
type write struct {
	index, id string
	document  []byte // nil: it is removed
	version   int64
	saturated bool // the version does not tell it from others of its transaction
}

// operation names the request.
func (w write) operation() string {
	if w.document == nil {
		return "delete"
	}
	return "index"
}

// render renders what an event writes. Its errors are final: the same event renders the same way again.
func (s *Search) render(call Call) (w write, err error) {
	if w.index, err = s.Index.Text(call.Env); err == nil {
		err = checkIndexName(w.index)
	}
	if err != nil {
		return w, Final(codeTemplate, fmt.Errorf("index: %w", err))
	}
	if w.id, err = s.documentID(call); err != nil {
		return w, Final(codeTemplate, fmt.Errorf("id_template: %w", err))
	}
	if w.version, w.saturated, err = versionOf(call.Event.Position()); err != nil {
		return w, Final("version", err)
	}
	if call.Event.Type == event.Delete {
		return w, nil
	}
	if w.document, err = s.document(call); err != nil {
		return w, Final(codeTemplate, fmt.Errorf("document_template: %w", err))
	}
	return w, nil
}

func (s *Search) documentID(call Call) (id string, err error) {
	id = call.Event.EntityID
	if s.IDTemplate != nil {
		if id, err = s.IDTemplate.Text(call.Env); err != nil {
			return "", err
		}
	}
	switch {
	case id == "":
		return "", errors.New("it renders to an empty text, which is no id")
	case len(id) > maxDocumentID:
		return "", fmt.Errorf("it renders to %d bytes, and Elasticsearch takes %d", len(id), maxDocumentID)
	}
	return id, nil
}

func (s *Search) document(call Call) (document []byte, err error) {
	document = call.Event.Data
	if s.DocumentTemplate != nil {
		if document, err = s.DocumentTemplate.JSON(call.Env); err != nil {
			return nil, err
		}
	} else if len(document) == 0 {
		document = []byte("{}")
	}
	if !isObject(document) {
		return nil, errors.New("it renders to something else than a JSON object")
	}
	return document, nil
}

// isObject says that a text is one JSON object.
func isObject(raw []byte) bool {
	return json.Valid(raw) && bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{"))
}

const (
	// commitShift drops bits of a commit's LSN that tell no commits apart: a commit record takes 40 bytes or more.
	commitShift = 5
	// indexBits are for the index of a change in its transaction.
	indexBits = 18
	lastIndex = 1<<indexBits - 1
	// positionEnd is the first LSN for which there is no version: 2^50 bytes, a pebibyte of WAL.
	positionEnd = event.LSN(1) << (63 - indexBits + commitShift)
)

// versionOf makes a position a version, which is a number of 63 bits, so that versions are ordered as positions are. A position
// has 64 bits for the commit and as many for the index within it. Commit records begin at multiples of 8 and take at least 40
// bytes, so two commits differ in LSN>>5; and 45 bits of that last for 2^50 bytes of WAL. What is left are 18 bits for the index:
// from the 262,143rd change of a transaction on, all have the same version, and the order in which they arrive decides. 0 is no
// version for every server, so the first position of all, which no commit has, has none.
func versionOf(p event.Position) (version int64, saturated bool, err error) {
	if p.LSN >= positionEnd {
		return 0, false, fmt.Errorf("the position %s is too far for a version of Elasticsearch", p)
	}
	index := min(max(p.Index, 0), lastIndex)
	version = int64(p.LSN>>commitShift)<<indexBits | index
	if version == 0 {
		return 0, false, errors.New("the event has no position")
	}
	return version, index == lastIndex, nil
}

// send writes, or removes.
func (w write) send(ctx context.Context, client *elastictransport.Client) (*outbound.Response, error) {
	kind := "external" // a repeat, too, finds its own version there and is refused, which is as good
	if w.saturated {
		kind = "external_gte" // or a later change would be refused as the repeat of an earlier one
	}
	version := int(w.version)
	id := url.PathEscape(w.id) // which the client does not do
	var answer *esapi.Response
	var err error
	if w.document == nil {
		answer, err = esapi.DeleteRequest{
			Index: url.PathEscape(w.index), DocumentID: id, Version: &version, VersionType: kind,
		}.Do(ctx, client)
	} else {
		answer, err = esapi.IndexRequest{
			Index: url.PathEscape(w.index), DocumentID: id, Version: &version, VersionType: kind, Body: bytes.NewReader(w.document),
		}.Do(ctx, client)
	}
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	return &outbound.Response{Status: answer.StatusCode, Header: answer.Header, Body: body}, err
}

// answerOf is what is read of Elasticsearch's answers.
type answerOf struct {
	Result string          `json:"result"` // created, updated, deleted, not_found
	Error  json.RawMessage `json:"error"`
}

// judge turns an answer into what was done, or what becomes of the delivery.
func (w write) judge(res *outbound.Response) (done string, err error) {
	var answer answerOf
	_ = json.Unmarshal(res.Body, &answer) // a proxy's may be anything: its status decides
	switch {
	case isSuccess(res.Status):
		return answer.Result, nil
	case res.Status == http.StatusConflict:
		return "nothing to do: a newer version is there", nil
	case res.Status == http.StatusNotFound && w.document == nil && answer.Result == "not_found":
		return "nothing to do: there is no document", nil
	}
	cause := fmt.Errorf("elasticsearch answered %s%s", statusText(res.Status), reasonOf(answer.Error))
	err = refusal(res, statusCode(res.Status), isFinalWrite(res.Status, answer.Error), cause)
	if res.Status == http.StatusUnauthorized {
		err = sick(err) // the credentials are the endpoint's, so every other document has the same trouble
	}
	return "", err
}

// isFinalWrite says that Elasticsearch would refuse the document again. Among the statuses is 404, when Elasticsearch itself has
// said that there is no such index and that it makes none.
func isFinalWrite(status int, failure json.RawMessage) bool {
	if status == http.StatusNotFound {
		return strings.HasPrefix(typeOf(failure), "index_not_found")
	}
	return isFinalStatus(status)
}

// failure is an error as Elasticsearch describes it.
type failure struct {
	Type     string   `json:"type"`
	Reason   string   `json:"reason"`
	CausedBy *failure `json:"caused_by"`
}

func typeOf(raw json.RawMessage) string {
	var f failure
	_ = json.Unmarshal(raw, &f) // it may be a text
	return f.Type
}

// reasonOf is why Elasticsearch refused, with the cause at the bottom: of a mapping conflict that is the value.
func reasonOf(raw json.RawMessage) string {
	var f failure
	if json.Unmarshal(raw, &f) != nil || f.Reason == "" {
		return ""
	}
	reason := ": " + f.Type + ": " + f.Reason
	last := f.CausedBy
	for last != nil && last.CausedBy != nil {
		last = last.CausedBy
	}
	if last != nil && last.Reason != "" && last.Reason != f.Reason {
		reason += ": " + last.Reason
	}
	return reason
}

// Preview is the document as it would be written, or that it would be removed.
func (s *Search) Preview(call Call) (Preview, error) {
	w, err := s.render(call)
	if err != nil {
		return nil, err
	}
	p := Preview{{"index", w.index}, {"id", w.id}}
	if w.document == nil {
		return append(p, Part{"document", "[removed]"}), nil
	}
	return append(p, Part{"document", string(w.document)}), nil
}
