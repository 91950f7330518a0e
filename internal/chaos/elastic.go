package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"
)

const elasticPage = 5000

// elasticPapers reads all documents of an installation's history, past the code that wrote them.
func elasticPapers(ctx context.Context, server, installation string) ([]paper, error) {
	all := server + "/weir-history-" + installation + "*"
	if _, err := post(ctx, all+"/_refresh", ""); err != nil {
		return nil, err
	}
	var papers []paper
	seen := map[string]bool{}
	for from := int64(-1); ; {
		// All documents of an event have its seq: a page that ends within an event is read to the end by the next one.
		raw, err := post(ctx, all+"/_search", fmt.Sprintf(
			`{"size":%d,"query":{"range":{"seq":{"gte":%d}}},"sort":["seq"],
			  "_source":["event_id","pk","delivery_id","observer","outcome","seq"]}`,
			elasticPage, from))
		if err != nil {
			return nil, err
		}
		var page struct {
			Hits struct {
				Hits []struct {
					Index  string `json:"_index"`
					ID     string `json:"_id"`
					Source struct {
						EventID  uuid.UUID `json:"event_id"`
						PK       int64     `json:"pk"`
						Delivery uuid.UUID `json:"delivery_id"`
						Observer string    `json:"observer"`
						Outcome  string    `json:"outcome"`
						Seq      int64     `json:"seq"`
					} `json:"_source"`
				} `json:"hits"`
			} `json:"hits"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, err
		}
		for _, hit := range page.Hits.Hits {
			from = hit.Source.Seq
			if key := hit.Index + "/" + hit.ID; !seen[key] {
				seen[key] = true
				papers = append(papers, paper{
					EventID: hit.Source.EventID, PK: hit.Source.PK, Delivery: hit.Source.Delivery,
					Observer: hit.Source.Observer, Outcome: hit.Source.Outcome,
				})
			}
		}
		if len(page.Hits.Hits) < elasticPage {
			return papers, nil
		}
	}
}

func post(ctx context.Context, url, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.300s", resp.Status, raw)
	}
	return raw, err
}
